"""The statement keys that a client accepts: those pinned at enrolment, and those that operators endorsed after them.

What follows from the pins is remembered in a file with the notes that prove it, and is proved again when it is read. A client
without a pin accepts what the first daemon shows, whose host key it has pinned.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

import msgspec

from hsmd.errors import ConfigurationError, ProofInvalid, ProtocolError
from hsmd.protocol.messages import StatementKeyList
from hsmd.system import atomic_file
from hsmd.system.input_files import read_file
from hsmd.transparency.endorsement import accepted, verify
from hsmd.transparency.note import Verifier

MAX_FILE_BYTES = 1 << 20
_MAY_NOT_WRITE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
WAITS = "waits"
"""The state of a key that no client accepts yet."""


class _Memory(msgspec.Struct, frozen=True, kw_only=True):
    """The file: verifier key lines, those of the first contact apart, and the endorsements that the others follow from."""

    version: int = 1
    first: list[str] = []
    keys: list[str] = []
    endorsements: list[str] = []


class StatementKeyPins:
    """The accepted keys of one client: `pinned` by its configuration, and remembered in `file`.

    `operators` are the keys whose endorsements are accepted.
    """

    def __init__(self, file: Path, pinned: Sequence[Verifier], operators: Sequence[Verifier]) -> None:
        self._file = file
        self._pinned = tuple(pinned)
        self._operators = tuple(operators)

    def accepted(self) -> list[Verifier]:
        """The keys whose statements are accepted. Raises ConfigurationError for a damaged file."""
        memory = self._read()
        pinned = self._pinned or _verifiers(memory.first)
        followed = accepted(pinned, _verifiers(memory.keys), memory.endorsements, self._operators)
        return _once([*pinned, *followed])

    def learn(self, shown: StatementKeyList) -> list[Verifier]:
        """Remember those of the keys shown that may be accepted; return them all, known or new.

        What follows from keys that are known is returned also to a user who may not write the file: it is proved again each
        time. Raises ConfigurationError if the file cannot be read, or nothing is known yet and it cannot be written;
        ProtocolError if the daemon's keys are malformed.
        """
        memory = self._read()
        offered = [
            Verifier.from_vkey(line) for key in shown.keys if key.state != WAITS for line in key.verifier_keys
        ]
        first = _verifiers(memory.first)
        if not self._pinned and not first:
            first = offered
        notes = self._of_operators([*memory.endorsements, *shown.endorsements])
        known = _verifiers(memory.keys)
        followed = accepted(self._pinned or first, _once([*known, *offered]), notes, self._operators)
        fresh = _Memory(
            first=[key.vkey for key in first], keys=[key.vkey for key in followed], endorsements=notes
        )
        if fresh != memory:
            self._write(fresh, is_needed=not (self._pinned or memory.first))
        return _once([*(self._pinned or first), *followed])

    def _of_operators(self, notes: Sequence[str]) -> list[str]:
        """Those notes, each once, that count: a daemon cannot fill the file with others."""
        found = []
        for note in dict.fromkeys(notes):
            try:
                verify(note, self._operators)
            except (ProofInvalid, ProtocolError):
                continue
            found.append(note)
        return found

    def _read(self) -> _Memory:
        try:
            return msgspec.json.decode(read_file(self._file, MAX_FILE_BYTES), type=_Memory)
        except FileNotFoundError:
            return _Memory()
        except (OSError, msgspec.MsgspecError) as error:
            fault = f"{self._file} cannot be used: {error}; find out why, then remove the file and list the keys again"
            raise ConfigurationError("statement keys", [fault]) from None

    def _write(self, memory: _Memory, *, is_needed: bool) -> None:
        content = msgspec.json.encode(memory)
        if len(content) > MAX_FILE_BYTES:  # it could not be read again
            fault = (
                f"{self._file} would have more than {MAX_FILE_BYTES} bytes: the daemon shows too many keys"
            )
            raise ConfigurationError("statement keys", [f"{fault}; find out why"])
        try:
            atomic_file.replace(self._file, content)
        except OSError as error:
            if not is_needed and error.errno in _MAY_NOT_WRITE:
                return
            fault = f"{self._file} cannot be written: {error.strerror}; run this once as a user who may write there"
            raise ConfigurationError("statement keys", [fault]) from None


def parse_pins(lines: Sequence[str]) -> tuple[Verifier, ...]:
    """The keys of verifier key lines in a configuration. Raises ProtocolError."""
    return tuple(Verifier.from_vkey(line) for line in lines)


def _verifiers(lines: Sequence[str]) -> list[Verifier]:
    """The keys in a remembered list."""
    try:
        return list(parse_pins(lines))
    except ProtocolError as error:
        raise ConfigurationError(
            "statement keys", [f"the remembered keys are damaged: {error.text}"]
        ) from None


def _once(keys: Sequence[Verifier]) -> list[Verifier]:
    return list(dict.fromkeys(keys))
