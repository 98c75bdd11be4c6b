"""`hsmd audit about`: print the records that the caller may read."""

from __future__ import annotations

from typing import Annotated

import typer

from hsmd.cli.audit import rows
from hsmd.cli.audit.options import app, readable
from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.output import escape


@command(app, "about", example="hsmd audit about\nhsmd audit about --first 20000 --json")
def about(
    session: Session,
    first: Annotated[
        int, typer.Option("--first", metavar="INDEX", min=0, help="Index of the first record.")
    ] = 0,
) -> None:
    """Print the records that you may read: those about you and about keys that you own or are a reader of.

    Auditors and operators may read all records. Archived records are included where the daemon can read the archive. With --json
    each line is a complete record as in the log; otherwise it is a summary.
    """
    for line in readable(session, first):
        print(line if session.output.as_json else escape(rows.one_line(line)), flush=True)
