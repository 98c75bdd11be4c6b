"""Control requests about the audit log."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from hsmd.protocol.messages.base import (
    ANY_ROLE,
    AUDITOR,
    NO_SUBJECT,
    OPERATOR,
    Done,
    Page,
    Request,
)

__all__ = [
    "AuditAbout",
    "AuditCheckpoint",
    "AuditDiscontinuity",
    "AuditLines",
    "AuditPage",
    "AuditProve",
    "AuditRange",
    "AuditRead",
    "AuditSeal",
    "AuditSealed",
    "AuditStand",
    "AuditStanding",
    "InclusionProof",
    "SignedCheckpoint",
]

Count = Annotated[int, Meta(ge=0, lt=1 << 53)]


class AuditPage(Struct):
    """Records of the audit log, from an index on."""

    first: int
    """Index of the first record."""
    lines: list[str]
    """Each record as it is in the log, one line of JSON."""
    size: int
    """Number of records in the log."""


class AuditRead(Request, tag="audit.read"):
    """Read records from an index on."""

    Result = AuditPage
    roles = OPERATOR | AUDITOR
    changes = False
    subject = NO_SUBJECT

    first: int = -100
    """A negative index counts from the end."""
    limit: Page = 100


class SignedCheckpoint(Struct):
    """The newest checkpoint, with the proof that it extends the state of the log that the request names."""

    note: str
    """The checkpoint, a C2SP signed note; empty if there is none yet."""
    proof: list[bytes]
    """Consistency proof (RFC 9162, section 2.1.4); empty if none is needed, or if the log has fewer records than `since`."""
    verifier_key: str
    """C2SP verifier key line of the key that signed the checkpoint."""
    discontinuities: list[str] = []
    """Notes in which operators declared breaks of the log, the newest last."""


class AuditCheckpoint(Request, tag="audit.checkpoint"):
    """Return the newest signed checkpoint, and the proof that it extends the log as it was earlier."""

    Result = SignedCheckpoint
    roles = ANY_ROLE
    changes = False
    subject = NO_SUBJECT

    since: Count = 0
    """Number of records that the log had then."""


class InclusionProof(Struct):
    """One record, and the proof that a signed checkpoint covers it."""

    index: int
    size: int
    """Number of records that the checkpoint covers."""
    line: str
    """The record as it is in the log, one line of JSON."""
    proof: list[bytes]
    """Inclusion proof (RFC 9162, section 2.1.3)."""
    note: str
    """The checkpoint, a C2SP signed note."""


class AuditProve(Request, tag="audit.prove"):
    """Return one record that the caller may read, with the proof that the newest checkpoint covers it."""

    Result = InclusionProof
    roles = ANY_ROLE
    changes = False
    subject = NO_SUBJECT

    index: Count


class AuditRange(Struct):
    """Records from the index `first` up to, and not including, `end`."""

    first: int
    end: int


class AuditLines(Struct):
    """All records before the index `next` that the caller may read, from the requested index on."""

    lines: list[str]
    """Each record as it is in the log, one line of JSON, in the order of their indices."""
    next: int
    """The `first` of the next request; equal to `size` if there are no more records at present."""
    size: int
    """Number of records in the log."""
    away: list[AuditRange] = []
    """Records in between that were archived to where the daemon cannot read them; the caller may or may not be meant in them."""
    undecided: int = 0
    """How many outcomes and uses of limited grants are left out because their attempts were archived there."""


class AuditAbout(Request, tag="audit.about"):
    """Read records about the caller and the keys that it owns or is a reader of; operators and auditors read all records.

    Archived records are included where the daemon can read the archive. One answer covers a limited part of the log, so `lines`
    may be empty although there are more records.
    """

    Result = AuditLines
    roles = ANY_ROLE
    changes = False
    subject = NO_SUBJECT

    first: Count = 0
    """Index of the first record to read."""
    limit: Page = 100


class AuditStanding(Struct):
    """The state of the log, and the newest state of it that the daemon knows from elsewhere."""

    origin: str
    """Name of the log in its checkpoints."""
    verifier_key: str
    """C2SP verifier key line of the key that signs checkpoints."""
    size: int
    """Number of records in the log."""
    root: bytes
    """Root hash of its Merkle tree."""
    remembered_size: int
    """Number of records at the newest checkpoint that the store remembers; -1 if it remembers none."""
    remembered_root: bytes
    held: str
    """Why keys are not used; empty if they are."""


class AuditStand(Request, tag="audit.stand"):
    """Return the state of the log and the newest checkpoint that is remembered outside of it."""

    Result = AuditStanding
    roles = OPERATOR | AUDITOR
    changes = False
    subject = NO_SUBJECT


class AuditDiscontinuity(Request, tag="audit.discontinuity"):
    """Declare a break in the audit log after a restore, in a note signed with the operator's own SSH key."""

    Result = Done
    roles = OPERATOR
    changes = True
    subject = NO_SUBJECT
    hashed = frozenset({"note"})

    note: Annotated[str, Meta(max_length=4_096)]
    """A C2SP signed note; its text is described in [audit.md](audit.md), section 8."""


class AuditSealed(Struct):
    """The answer to `audit.seal`."""

    first: int
    """Index of the first record behind the sealed segment."""


class AuditSeal(Request, tag="audit.seal"):
    """Seal the current file of the log as a segment, and continue in a new file."""

    Result = AuditSealed
    roles = OPERATOR
    changes = True
    subject = NO_SUBJECT
