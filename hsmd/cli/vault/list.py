"""`hsmd vault list`: list your records."""

from __future__ import annotations

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.output import table
from hsmd.cli.base.paging import records_of
from hsmd.cli.vault.options import app
from hsmd.cli.vault.versions import HEADERS, row


@command(app, "list", example="hsmd vault list\nhsmd vault list --json")
def list_(session: Session) -> None:
    """List your records: the newest version of each, its state, term and uses.

    The management key is not needed. What the daemon says here is not proven by your signature; `hsmd vault get` verifies it.
    """
    found = records_of(session)
    session.output.show({"records": found}, lambda: table(HEADERS, [row(each) for each in found], whole=1))
