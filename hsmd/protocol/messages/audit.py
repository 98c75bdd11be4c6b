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
    """Records as they stand in the log, one JSON line each, from index `first` on; `size` is the log's size."""

    first: int
    lines: list[str]
    size: int


class AuditRead(Request, tag="audit.read"):
    """Operator, auditor: records from an index on; a negative index counts from the end."""

    Result = AuditPage
    roles = OPERATOR | AUDITOR
    changes = False
    subject = NO_SUBJECT

    first: int = -100
    limit: Page = 100


class SignedCheckpoint(Struct):
    """The newest checkpoint (a C2SP signed note) and the proof that it extends the one asked about (RFC 9162, 2.1.4).

    `note` is empty if there is none yet. `proof` is empty where nothing needs one, or none exists: the caller saw a
    larger log. `verifier_key` is the C2SP verifier key line of the key that signed; `discontinuities` are notes that operators
    signed, the newest last.
    """

    note: str
    proof: list[bytes]
    verifier_key: str
    discontinuities: list[str] = []


class AuditCheckpoint(Request, tag="audit.checkpoint"):
    """Any role: the newest signed checkpoint, and the proof that it extends that of the first `since` records."""

    Result = SignedCheckpoint
    roles = ANY_ROLE
    changes = False
    subject = NO_SUBJECT

    since: Count = 0


class InclusionProof(Struct):
    """Record `index` as it stands in the log, and the proof that it is among the first `size` (RFC 9162, section 2.1.3).

    `note` is the signed checkpoint of that size.
    """

    index: int
    size: int
    line: str
    proof: list[bytes]
    note: str


class AuditProve(Request, tag="audit.prove"):
    """Any role, about records it may read: one record, with the proof that the newest checkpoint covers it."""

    Result = InclusionProof
    roles = ANY_ROLE
    changes = False
    subject = NO_SUBJECT

    index: Count


class AuditLines(Struct):
    """Records the caller may read, in the order of their indices; nothing else up to `next`, where to go on, is his.

    `size` is the log's size: at `next` = `size` there is no more at present.
    """

    lines: list[str]
    next: int
    size: int


class AuditAbout(Request, tag="audit.about"):
    """Any role: records about oneself, and about keys one owns, from the index `first` on. An answer may be empty and go on."""

    Result = AuditLines
    roles = ANY_ROLE
    changes = False
    subject = NO_SUBJECT

    first: Count = 0
    limit: Page = 100


class AuditStanding(Struct):
    """Where the log stands: `size` and `root` of its tree now, and of the newest checkpoint known outside of it.

    `held` says why keys are not used, empty if they are; `remembered_size` is -1 if nothing is known.
    """

    origin: str
    verifier_key: str
    size: int
    root: bytes
    remembered_size: int
    remembered_root: bytes
    held: str


class AuditStand(Request, tag="audit.stand"):
    """Operator, auditor: how does the log stand to what was known of it?"""

    Result = AuditStanding
    roles = OPERATOR | AUDITOR
    changes = False
    subject = NO_SUBJECT


class AuditDiscontinuity(Request, tag="audit.discontinuity"):
    """Operator: declare, in a note signed with one's own SSH key, that the log does not continue what was seen of it."""

    Result = Done
    roles = OPERATOR
    changes = True
    subject = NO_SUBJECT
    hashed = frozenset({"note"})

    note: Annotated[str, Meta(max_length=4_096)]


class AuditSealed(Struct):
    """A segment was sealed; `first` is the index of the first record behind it."""

    first: int


class AuditSeal(Request, tag="audit.seal"):
    """Operator: put the live file among the sealed segments, and go on in a new one."""

    Result = AuditSealed
    roles = OPERATOR
    changes = True
    subject = NO_SUBJECT
