"""Control requests about the audit log."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from hsmd.protocol.messages.base import Page, Request


class AuditPage(Struct):
    """Records as they stand in the log, one JSON line each, from index `first` on; `size` is the log's size."""

    first: int
    lines: list[str]
    size: int


class AuditRead(Request, tag="audit.read"):
    """Operator, auditor: records from an index on; a negative index counts from the end."""

    Result: ClassVar = AuditPage
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

    Result: ClassVar = SignedCheckpoint
    since: Annotated[int, Meta(ge=0, lt=1 << 53)] = 0


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
    """Operator, auditor: one record, with the proof that the newest checkpoint covers it."""

    Result: ClassVar = InclusionProof
    index: Annotated[int, Meta(ge=0, lt=1 << 53)]


REQUESTS: tuple[type[Request], ...] = (AuditRead, AuditCheckpoint, AuditProve)
