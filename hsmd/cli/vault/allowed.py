"""`hsmd vault allowed`: list who may check."""

from __future__ import annotations

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.output import table
from hsmd.cli.vault.options import app
from hsmd.protocol.messages import VaultAllowed, VaultAllowedList


@command(app, "allowed", example="hsmd vault allowed")
def allowed(session: Session) -> None:
    """List who may check public keys against your records."""
    found = session.ask(VaultAllowed(), VaultAllowedList)
    rows = [("every checker",)] * found.checkers + [(name,) for name in found.clients]
    session.output.show(found, lambda: table(("WHO",), rows))
