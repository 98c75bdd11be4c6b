"""What hsmd makes of each private key object in a token: whether it is served or could be, why not, and what to do.

Ceilings whose private key is not in the token are findings too.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from pkcs11 import Attribute, KeyType as KeyKind

from hsmd.daemon.ipc.worker_messages import Candidate
from hsmd.daemon.worker import private_keys, reserves
from hsmd.daemon.worker.ceilings import Ceiling, reading_all
from hsmd.daemon.worker.key_pairs import KeyPairs, Unproven
from hsmd.daemon.worker.public_halves import PublicHalves
from hsmd.daemon.worker.reserves import Reserve
from hsmd.pkcs11 import templates
from hsmd.pkcs11.attributes import flag, read
from hsmd.pkcs11.public_keys import PublicHalf, curve_of
from hsmd.purposes.common_names import common_name_of

MAX_NAMED_LABEL = 256
"""Longest CKA_LABEL by which a key can be named in a request."""


def key_findings(session: Any, *, served: bool) -> Iterator[Candidate | None]:
    """A finding about each private key object that is not served, in the order of CKA_IDs; with `served` about the others too.

    At the end those about ceilings to which no private key object belongs.
    None between them is a place to pause. Each object costs at most one signature, and only if it is ambiguous. Raises
    PKCS11Error.
    """
    ceilings = yield from reading_all(session)
    privates = yield from private_keys.reading_by_id(session)
    judge = _Judge(ceilings, reserves.read_all(session), privates, PublicHalves.of(session))
    for ceiling in ceilings.values():
        judge.pair(ceiling)
        yield None
    for cka_id in sorted(privates):
        for private in privates[cka_id]:
            yield judge.of(cka_id, private) if served or not judge.serves(private) else None
    yield from judge.of_lost_keys()


class _Judge:
    """Judges the objects of one search of the token."""

    def __init__(
        self,
        ceilings: Mapping[bytes, Ceiling],
        reserved: Mapping[bytes, Reserve],
        privates: Mapping[bytes, list[Any]],
        halves: PublicHalves,
    ) -> None:
        """`privates`: all private key objects by CKA_ID."""
        self._ceilings = ceilings
        self._reserved = reserved
        self._privates = privates
        self._halves = halves
        self._pairs = KeyPairs()
        self._problems: dict[bytes, str] = {}
        self._served: dict[int, Ceiling] = {}
        self._paired: set[bytes] = set()
        """Digests of the public halves that belong to one of the objects that were judged."""
        self._labels: Counter[str] = Counter()
        for objects in privates.values():
            self._labels.update(read(private, Attribute.LABEL) or "" for private in objects)

    def pair(self, ceiling: Ceiling) -> None:
        """Find the object that is served for a ceiling."""
        found = self._pairs.private_key(ceiling, self._privates.get(ceiling.cka_id, []))
        if found.private is None:
            self._problems[ceiling.half.digest] = found.problem
        else:
            self._served[found.private.handle] = ceiling

    def serves(self, private: Any) -> bool:
        """Whether this object is served for a ceiling."""
        return private.handle in self._served

    def of(self, cka_id: bytes, private: Any) -> Candidate:
        """The finding about one private key object. Raises PKCS11Error."""
        ceiling = self._served.get(private.handle)
        half: PublicHalf | None = None
        trouble = ""
        if ceiling is not None:
            half = ceiling.half
        else:
            try:
                half = self._pairs.half_of(private, self._halves.near(private))
            except Unproven as unproven:
                trouble = unproven.text
        if half is not None:
            self._paired.add(half.digest)
        unsafe = templates.unsafe_attributes(private)
        finding, why = self._judge(private, half, trouble, unsafe, served=ceiling is not None)
        return Candidate(
            cka_id=cka_id.hex(),
            cka_label=read(private, Attribute.LABEL) or "",
            key_type=half.key_type.value if half else "",
            key=half.digest.hex() if half else "",
            unsafe=unsafe,
            finding=finding,
            why=why,
            next_step=f"hsmd ca init NAME --common-name NEW-NAME --adopt {half.digest.hex()}"
            if finding == "reserved" and half
            else self._next_step(finding, cka_id, private),
            shared=len(self._privates.get(cka_id, [])) - 1,
        )

    def of_lost_keys(self) -> Iterator[Candidate]:
        """Findings about the ceilings to which none of the objects that were judged belongs."""
        for digest in sorted(self._problems.keys() - self._paired):
            ceiling = self._ceilings[digest]
            yield Candidate(
                cka_id=ceiling.cka_id.hex(),
                cka_label="",
                key_type=ceiling.half.key_type.value,
                key=digest.hex(),
                unsafe=[],
                finding="private-key-missing",
                why=self._problems[digest],
                shared=len(self._privates.get(ceiling.cka_id, [])),
            )

    def _judge(
        self, private: Any, half: PublicHalf | None, trouble: str, unsafe: list[str], *, served: bool
    ) -> tuple[str, str]:
        if served:
            return "served", ""
        if flag(private, Attribute.ALWAYS_AUTHENTICATE):
            return "unusable", "it requires the PIN for each use, which hsmd does not support"
        if trouble:
            return "unusable", trouble
        if half is None:
            kind = _unserved_type(private)
            if kind:
                return "unsupported", f"hsmd serves no keys of its type, {kind}"
            return "public-key-missing", "no public key or certificate with its CKA_ID or label belongs to it"
        if half.digest in self._problems:
            return "not-served", f"its ceiling names another object: {self._problems[half.digest]}"
        if half.digest in self._ceilings:
            return "not-served", "it is a copy: another object of the same key is served"
        if not any(templates.may(private, attribute) for attribute in templates.PRIVATE_USES.values()):
            return "unusable", "the token lets it neither sign nor decrypt nor unwrap"
        if reserve := self._reserved.get(half.digest):
            return (
                "reserved",
                f"it is reserved for {common_name_of(reserve.limits.name)}, whose key it replaces",
            )
        if unsafe:
            return "unsafe", f"it is {', '.join(unsafe)}"
        return "adoptable", ""

    def _next_step(self, finding: str, cka_id: bytes, private: Any) -> str:
        if finding in ("served", "unsupported"):
            return ""
        if finding == "unusable":
            return "generate another key: hsmd key generate NAME"
        if finding == "not-served":
            return "remove the copies with the token's own tools, or leave them: they are not used"
        command = f"hsmd key adopt NAME {self._selection(cka_id, private, finding)} --purpose tls-server"
        return f"{command} --accept-unsafe, or generate a new key" if finding == "unsafe" else command

    def _selection(self, cka_id: bytes, private: Any, finding: str) -> str:
        """The options that name this object and no other."""
        label = read(private, Attribute.LABEL) or ""
        certificate = " --certificate CERTIFICATE.pem" if finding == "public-key-missing" else ""
        if cka_id and len(self._privates.get(cka_id, [])) == 1:
            return f"--id {cka_id.hex()}{certificate}"
        if 0 < len(label) <= MAX_NAMED_LABEL and self._labels[label] == 1:
            return f"--label {shlex.quote(label)}{certificate}"
        return "--certificate CERTIFICATE.pem"


def _unserved_type(private: Any) -> str:
    """The type of a key that hsmd cannot serve, in words; empty if it could."""
    kind = read(private, Attribute.KEY_TYPE)
    if kind == KeyKind.RSA:
        bits = int.from_bytes(read(private, Attribute.MODULUS) or b"", "big").bit_length()
        return f"RSA of {bits} bits" if bits and bits not in (2048, 3072, 4096) else ""
    if kind in (KeyKind.EC, KeyKind.EC_EDWARDS):
        params = read(private, Attribute.EC_PARAMS)
        return "a curve other than P-256, P-384, P-521 and Ed25519" if curve_of(params) == "" else ""
    if kind is None:
        return ""
    return kind.name if isinstance(kind, KeyKind) else f"number 0x{kind:x}"
