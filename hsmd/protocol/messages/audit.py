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
    """The newest checkpoint: `note` is its signed note, empty if there is none yet, `verifier_key` the key that signed it.

    `proof` shows that it continues the log of `since` records; `discontinuities` are notes signed by operators, the newest last.
    """

    note: str
    proof: list[bytes]
    verifier_key: str
    discontinuities: list[str]


class AuditCheckpoint(Request, tag="audit.checkpoint"):
    """Any role: the newest checkpoint of the audit log, and the proof that it continues the log of `since` records."""

    Result: ClassVar = SignedCheckpoint
    since: Annotated[int, Meta(ge=0, lt=1 << 53)] = 0


REQUESTS: tuple[type[Request], ...] = (AuditRead, AuditCheckpoint)
