"""Endorsements: notes in which an operator declares that a key signs a daemon's statements from now on, after another one.

docs/protocol.md, section 9. A client that has pinned the old key accepts the new one for such a note, signed by an operator whose
key it knows.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hsmd.errors import BadRequest, ProofInvalid, ProtocolError
from hsmd.transparency import declaration
from hsmd.transparency.note import Note, Verifier

_TITLE = "hsmd statement-key v1"
_MEMBERS = ("old", "new", "time", "reason")
_ANY = "any"


@dataclass(frozen=True, slots=True)
class Endorsement:
    """`old` and `new` are keys as in the last part of a verifier key line: base64 of type and key, without a name.

    The daemons of one store sign with the same key, each under its own name, so a note is about all of them. `time` is when it
    was declared (in the format of records), `reason` one line of at most 200 characters. Raises BadRequest for other values.
    """

    old: str
    new: str
    time: str
    reason: str

    def __post_init__(self) -> None:
        declaration.check_reason_and_time(self.reason, self.time)
        if self.old == self.new:
            raise BadRequest("new: it is the old key")
        for name, material in (("old", self.old), ("new", self.new)):
            if not _is_key(material):
                raise BadRequest(f"{name}: is not a key as at the end of a verifier key line")

    def text(self) -> str:
        """The text of the note."""
        values = (self.old, self.new, self.time, self.reason)
        return declaration.write(_TITLE, dict(zip(_MEMBERS, values, strict=True)))


def material_of(key: Verifier) -> str:
    """A key without the name that it signs under, as endorsements name it."""
    return key.vkey.split("+", 2)[2]


def parse_text(text: str) -> Endorsement:
    """The endorsement in the text of a note. Raises ProtocolError."""
    values = declaration.read(text, _TITLE, _MEMBERS, "an endorsement")
    try:
        found = Endorsement(**values)
    except BadRequest as problem:
        raise ProtocolError(f"not an endorsement: {problem.text}") from None
    if found.text() != text:
        raise ProtocolError("not an endorsement: not in the canonical form")
    return found


def sign(endorsement: Endorsement, key: declaration.OperatorKey) -> Note:
    """The note, signed with an operator's key."""
    return declaration.sign(endorsement.text(), key)


def verify(note: str | Note, operators: Iterable[Verifier]) -> Endorsement:
    """The endorsement in a note signed by one of the operators' keys.

    Raises ProtocolError if it is not such a note, ProofInvalid if none of the keys signed it.
    """
    unknown = "the endorsement is not signed by an operator whose key is known here"
    return parse_text(declaration.verify(note, operators, unknown))


def accepted(
    pinned: Sequence[Verifier],
    offered: Sequence[Verifier],
    notes: Iterable[str],
    operators: Sequence[Verifier],
) -> list[Verifier]:
    """Those of the offered keys that follow from the pinned ones: the same key, or one that operators endorsed after it.

    A daemon that is new in the fleet signs with a pinned key under a name of its own; that is the same key.
    """
    successors: dict[str, set[str]] = {}
    for note in notes:
        try:
            found = verify(note, operators)
        except (ProofInvalid, ProtocolError):
            continue  # by an unknown operator, or not an endorsement at all
        successors.setdefault(found.old, set()).add(found.new)
    trusted: set[str] = set()
    reached = {material_of(key) for key in pinned}
    while reached:
        trusted |= reached
        reached = {new for old in reached for new in successors.get(old, ())} - trusted
    return [key for key in offered if material_of(key) in trusted]


def _is_key(material: str) -> bool:
    """Whether it is the last part of a verifier key line."""
    try:
        raw = base64.b64decode(material, validate=True)
        return bool(raw) and material_of(Verifier.from_material(_ANY, raw)) == material
    except (ValueError, ProtocolError):
        return False
