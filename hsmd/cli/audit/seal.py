"""`hsmd audit seal`: seal the live file of the log and start a new one."""

from __future__ import annotations

from hsmd.cli.audit.options import app
from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import SLOW_TIMEOUT_S, Session
from hsmd.protocol.messages import AuditSeal, AuditSealed


@command(app, "seal", example="hsmd audit seal")
def seal(session: Session) -> None:
    """Seal the live file of the log as a segment, and start a new live file.

    The daemon does this by itself when the live file reaches `audit.segment_mib`. Sealed segments never change and can be
    archived.
    """
    answer = session.ask(AuditSeal(), AuditSealed, timeout_s=SLOW_TIMEOUT_S)
    session.output.show(answer, lambda: f"Sealed. The live file begins with record {answer.first}.")
