"""Approvals: notes in which an operator declares that a plan may be carried out. docs/rollover.md.

A note names the plan by its digest and the topology by its own, so it is about these bytes and no others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from hsmd.errors import BadRequest, ErrorCode, HsmdError, ProofInvalid, ProtocolError
from hsmd.rollover.plan import Plan
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


class ApprovalRefused(HsmdError):
    """An approval does not count for a plan. `advice` is what to do."""

    code = ErrorCode.PROTOCOL

    def __init__(self, text: str, advice: str) -> None:
        self.advice = advice
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class Approved:
    """What was approved, and by which of the operators' keys: at least one, and all of their signatures are right."""

    approval: Approval
    operators: tuple[Verifier, ...]


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


def sign(approval: Approval, key: declaration.OperatorKey) -> Note:
    """The note, signed with an operator's key."""
    return declaration.sign(approval.text(), key)


def verify(note: str | Note, operators: Iterable[Verifier]) -> Approval:
    """The approval in a note signed by one of the operators' keys.

    Raises ProtocolError if it is not such a note, ProofInvalid if none of the keys signed it.
    """
    unknown = "the plan is not approved by an operator whose key is known here"
    return parse_text(declaration.verify(note, operators, unknown))


def check(note: bytes, operators: Iterable[Verifier], plan: Plan, digest: str) -> Approved:
    """Who approved `plan`; `digest` is that of its bytes.

    Raises ApprovalRefused if the note is no approval, is signed by none of the operators' keys, was altered, or approves
    another plan. What the note says is looked at only after its signatures.
    """
    try:
        parsed = Note.parse(note)
    except ProtocolError as problem:
        raise ApprovalRefused(
            problem.text, "give the whole file that `hsmd rollover approve` wrote"
        ) from None
    named = declaration.signers(parsed, operators)
    if not named:
        raise ApprovalRefused(
            "none of the operators' keys signed it",
            "find out who did; if that operator may approve the plan, give the key with --operator-key",
        )
    try:
        found = verify(parsed, named)
    except ProofInvalid:
        raise ApprovalRefused(
            "it was altered after it was signed", "do not carry the plan out; get the original approval"
        ) from None
    except ProtocolError as problem:
        raise ApprovalRefused(
            problem.text, "it is another note of this operator; give the approval"
        ) from None
    if (found.plan, found.topology) != (digest, plan.topology.digest):
        raise ApprovalRefused(
            f"it approves another plan, whose digest is {found.plan}, and not {digest}",
            "do not carry the plan out; look at it, and have it approved: hsmd rollover approve",
        )
    return Approved(found, tuple(named))
