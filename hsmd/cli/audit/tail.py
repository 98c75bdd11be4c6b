"""`hsmd audit tail`: print records as they are written."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from hsmd.cli.audit import rows
from hsmd.cli.audit.options import app, read_page
from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.output import escape
from hsmd.protocol.messages import MAX_PAGE

POLL_S = 0.5
"""Interval between two requests for new records."""


@command(
    app,
    "tail",
    example="hsmd audit tail\nhsmd audit tail --count 0 --json | jq .event",
)
def tail(
    session: Session,
    count: Annotated[
        int, typer.Option("--count", "-n", min=0, max=500, help="Number of existing records to begin with.")
    ] = 10,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Keep printing new records until interrupted.")
    ] = True,
) -> None:
    """Print records as they are written, one per line.

    With --json each line is a complete record as in the log; otherwise it is a summary.
    """
    first = max(0, read_page(session, -1, 1).size - count)
    while True:
        page = read_page(session, first, MAX_PAGE)
        for line in page.lines:
            print(line if session.output.as_json else escape(rows.one_line(line)), flush=True)
        first += len(page.lines)
        if not follow and first >= page.size:
            return
        if not page.lines:
            time.sleep(POLL_S)
