"""Control requests about the audit log."""

from __future__ import annotations

from typing import ClassVar

from msgspec import Struct

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


REQUESTS: tuple[type[Request], ...] = (AuditRead,)
