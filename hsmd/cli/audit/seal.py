"""`hsmd audit seal`: start a new segment of the log."""

from __future__ import annotations

from hsmd.cli.audit.options import app
from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import SLOW_TIMEOUT_S, Session
from hsmd.protocol.messages import AuditSeal, AuditSealed


@command(app, "seal", example="hsmd audit seal")
def seal(session: Session) -> None:
    """Put the live file of the log among the sealed segments, and have the daemon go on in a new one.

    The daemon does so by itself at `audit.segment_mib`. Sealed segments never change again and can be archived.
    """
    answer = session.ask(AuditSeal(), AuditSealed, timeout_s=SLOW_TIMEOUT_S)
    session.output.show(answer, lambda: f"sealed; the live file begins with record {answer.first}")
