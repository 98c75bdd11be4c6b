"""`hsmd vault show`: show the versions of a record."""

from __future__ import annotations

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.output import table
from hsmd.cli.base.paging import versions_of
from hsmd.cli.vault.options import Record, app
from hsmd.cli.vault.versions import HEADERS, row


@command(app, "show", example="hsmd vault show www\nhsmd vault show www --json")
def show(session: Session, record: Record) -> None:
    """Show all versions of a record, the newest first.

    Destroyed ones are listed too: their public half and history stay, so that old signatures can be judged.
    """
    found = versions_of(session, record)
    session.output.show({"versions": found}, lambda: table(HEADERS, [row(each) for each in found], whole=1))
