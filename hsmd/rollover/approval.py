"""Approvals: notes in which an operator declares that a plan may be carried out. docs/rollover.md.

A note names the plan by its digest and the topology by its own, so it is about these bytes and no others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hsmd.errors import BadRequest, ProtocolError
from hsmd.transparency import declaration
from hsmd.transparency.note import Note, Verifier

_TITLE = "hsmd rollover-plan v1"
_MEMBERS = ("plan", "topology", "time", "reason")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class Approval:
    """`plan` and `topology` are digests, 64 hexadecimal digits each. `time` is when it was declared, in the format of records;
    `reason` is one line. Raises BadRequest for other values."""

    plan: str
    topology: str
    time: str
    reason: str

    def __post_init__(self) -> None:
        declaration.check_reason_and_time(self.reason, self.time)
        for name, value in (("plan", self.plan), ("topology", self.topology)):
            if not _DIGEST.match(value):
                raise BadRequest(f"{name}: is not a digest of 64 hexadecimal digits in lower case")

    def text(self) -> str:
        """The text of the note."""
        values = (self.plan, self.topology, self.time, self.reason)
        return declaration.write(_TITLE, dict(zip(_MEMBERS, values, strict=True)))


def parse_text(text: str) -> Approval:
    """The approval in the text of a note. Raises ProtocolError."""
    values = declaration.read(text, _TITLE, _MEMBERS, "an approval of a rollover plan")
    try:
        found = Approval(**values)
    except BadRequest as problem:
        raise ProtocolError(f"not an approval of a rollover plan: {problem.text}") from None
    if found.text() != text:
        raise ProtocolError("not an approval of a rollover plan: not in the canonical form")
    return found


def sign(approval: Approval, key: Ed25519PrivateKey) -> Note:
    """The note, signed with an operator's key."""
    return declaration.sign(approval.text(), key)


def verify(note: str | Note, operators: Iterable[Verifier]) -> Approval:
    """The approval in a note signed by one of the operators' keys.

    Raises ProtocolError if it is not such a note, ProofInvalid if none of the keys signed it.
    """
    unknown = "the plan is not approved by an operator whose key is known here"
    return parse_text(declaration.verify(note, operators, unknown))
