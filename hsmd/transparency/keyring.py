"""Public keys that may sign the checkpoints of a log: verifier key lines, or PEM keys that sign under any name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from hsmd.errors import ProofInvalid, ProtocolError
from hsmd.transparency.note import Verifier

_PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)
_ANY = "any"


class KeyRing:
    """Public keys: `named` sign under their own names only, `unnamed` (whose names are ignored) under any."""

    def __init__(self, named: Sequence[Verifier], unnamed: Sequence[Verifier] = ()) -> None:
        self._named = {(key.name, key.key_id): key for key in named}
        self._unnamed = list(unnamed)

    @classmethod
    def parse(cls, data: bytes) -> KeyRing:
        """The keys in a file: PEM blocks, verifier key lines, or both. Raises ProtocolError if there are none."""
        unnamed = [Verifier.from_pem(_ANY, block) for block in _PEM.findall(data)]
        lines = _PEM.sub(b"", data).decode("utf-8", "replace").split("\n")
        named = [_named(line.strip()) for line in lines if line.strip()]
        if not (named or unnamed):
            raise ProtocolError("no public key: give a PEM public key or a verifier key line")
        return cls(named, unnamed)

    def find(self, name: str, key_id: bytes) -> Verifier | None:
        """The key that signs under `name` with this key id, None if it is not known."""
        key = self._named.get((name, key_id))
        if key is None:
            renamed = (replace(one, name=name) for one in self._unnamed)
            key = next((one for one in renamed if one.key_id == key_id), None)
            if key is not None:
                self._named[name, key_id] = key
        return key

    def verifier(self, name: str, key_id: bytes) -> Verifier:
        """The same. Raises ProofInvalid if it is not known."""
        key = self.find(name, key_id)
        if key is None:
            raise ProofInvalid(f"signed under the name {name} with key {key_id.hex()}, which was not given")
        return key


def _named(line: str) -> Verifier:
    try:
        return Verifier.from_vkey(line)
    except ProtocolError as problem:
        raise ProtocolError(f"{line[:80]!r} is {problem.text}") from None
