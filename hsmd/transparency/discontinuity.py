"""Discontinuities: notes in which an operator declares a break in the log: it does not continue what witnesses remember.

docs/audit.md, section 8.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass

from hsmd.errors import BadRequest, ProtocolError
from hsmd.transparency import declaration
from hsmd.transparency.merkle import HASH_BYTES
from hsmd.transparency.note import Note, Verifier

EVENT = "log.discontinuity"
_TITLE = "hsmd discontinuity v1"
_MEMBERS = ("origin", "old", "new", "key", "time", "reason")
_SIZE = re.compile(r"(0|[1-9][0-9]{0,15})\Z")


@dataclass(frozen=True, slots=True)
class State:
    """A log of `size` records whose tree has the root `root` (32 bytes)."""

    size: int
    root: bytes

    def __str__(self) -> str:
        return f"{self.size} {base64.b64encode(self.root).decode()}"


@dataclass(frozen=True, slots=True)
class Discontinuity:
    """A log was abandoned (`old` is its newest known state, None if there is none) and continues from `new`.

    `origin` names the log, `key` is the verifier key of its checkpoints from now on, `time` when this was declared (in the
    format of records), `reason` one line of at most 200 characters, for people. Raises BadRequest for other values.
    """

    origin: str
    old: State | None
    new: State
    key: str
    time: str
    reason: str

    def __post_init__(self) -> None:
        declaration.check_reason_and_time(self.reason, self.time)
        if Verifier.from_vkey(self.key).name != self.origin:
            raise BadRequest(f"key: not a verifier key of {self.origin[:80]}")
        if any(len(state.root) != HASH_BYTES for state in (self.old, self.new) if state):
            raise BadRequest(f"old, new: a root has {HASH_BYTES} bytes")

    def text(self) -> str:
        """The text of the note."""
        old = "unknown" if self.old is None else str(self.old)
        values = (self.origin, old, str(self.new), self.key, self.time, self.reason)
        return declaration.write(_TITLE, dict(zip(_MEMBERS, values, strict=True)))


def parse_text(text: str) -> Discontinuity:
    """The discontinuity in the text of a note. Raises ProtocolError."""
    values = declaration.read(text, _TITLE, _MEMBERS, "a discontinuity")
    old = None if values["old"] == "unknown" else _state(values["old"])
    try:
        found = Discontinuity(
            values["origin"], old, _state(values["new"]), values["key"], values["time"], values["reason"]
        )
    except BadRequest as problem:
        raise ProtocolError(f"not a discontinuity: {problem.text}") from None
    if found.text() != text:
        raise ProtocolError("not a discontinuity: not in the canonical form")
    return found


def sign(discontinuity: Discontinuity, key: declaration.OperatorKey) -> Note:
    """The note, signed with an operator's key."""
    return declaration.sign(discontinuity.text(), key)


def verify(note: str | Note, operators: Iterable[Verifier]) -> Discontinuity:
    """The discontinuity in a note signed by one of the operators' keys.

    Raises ProtocolError if it is not such a note, ProofInvalid if none of the keys signed it.
    """
    unknown = "the discontinuity is not signed by an operator whose key is pinned here"
    return parse_text(declaration.verify(note, operators, unknown))


def to_fields(note: Note) -> dict[str, str | int]:
    """The fields of the record `log.discontinuity` for a note with one signature. Raises ProtocolError."""
    found = parse_text(note.text)
    if len(note.signatures) != 1:
        raise ProtocolError("a discontinuity is recorded with one signature")
    fields: dict[str, str | int] = {
        "origin": found.origin, "new_size": found.new.size, "new_root": found.new.root.hex(), "key": found.key,
        "declared": found.time, "reason": found.reason, "signature": note.signatures[0].encoded,
    }  # fmt: skip
    if found.old is not None:
        fields |= {"old_size": found.old.size, "old_root": found.old.root.hex()}
    return fields


def _state(text: str) -> State:
    size, _, root = text.partition(" ")
    try:
        raw = base64.b64decode(root, validate=True)
    except ValueError:
        raw = b""
    if not _SIZE.match(size) or len(raw) != HASH_BYTES:
        raise ProtocolError("not a discontinuity: a state is a size and a root")
    return State(int(size), raw)
