"""`hsmd audit show`: show the newest records as a table."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from hsmd.cli.audit import rows
from hsmd.cli.audit.options import app, read_page
from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.output import table
from hsmd.errors import NotFound
from hsmd.protocol.messages import KeyInfo, KeyShow


@command(
    app,
    "show",
    example="hsmd audit show\nhsmd audit show --client web1 --count 200\nhsmd audit show --key www --json",
)
def show(
    session: Session,
    client: Annotated[
        str,
        typer.Option("--client", metavar="NAME", help="Only records about this client.", show_default=False),
    ] = "",
    key: Annotated[
        str, typer.Option("--key", metavar="NAME", help="Only records about this key.", show_default=False)
    ] = "",
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=100_000, help="Number of rows.")] = 50,
) -> None:
    """Show the newest records in the order of the log.

    An attempt and its outcome are one row. The result "open" means that no outcome has been recorded (yet).
    """
    wanted = rows.Filter(client, key, _digest_of(session, key) if key else "")
    found, size = rows.newest(partial(read_page, session), wanted, count)
    session.output.show(
        {"size": size, "records": [row.document for row in found]},
        lambda: table(rows.HEADERS, [row.cells for row in found]),
    )


def _digest_of(session: Session, key: str) -> str:
    """The key's digest, which identifies it in refusals; empty if the key does not exist."""
    try:
        return session.ask(KeyShow(name=key), KeyInfo).digest
    except NotFound:
        return ""
