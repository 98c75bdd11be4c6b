"""What the commands of `hsmd audit` share: their group, and reading a page of records."""

from __future__ import annotations

from hsmd.cli.commands import group
from hsmd.cli.connection import Session
from hsmd.protocol.messages import AuditPage, AuditRead

app = group(
    """The audit log.

    Every use of a key is recorded before and after it happens, with who asked, and every control operation. Each record holds
    the hash of the one before it, so that a change, a gap or a swap shows."""
)


def read_page(session: Session, first: int, limit: int) -> AuditPage:
    """Records from `first` on, at most `limit`."""
    return session.ask(AuditRead(first=first, limit=limit), AuditPage)
