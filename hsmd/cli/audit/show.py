"""`hsmd audit show`: show the newest records as a table."""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated

import typer

from hsmd.cli.audit import rows
from hsmd.cli.audit.options import app, read_page, readable
from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.output import table
from hsmd.errors import NotFound, Refused
from hsmd.protocol.messages import AuditAbout, AuditLines, AuditRead, Identity, KeyInfo, KeyShow, WhoAmI

_DIGEST = re.compile("[0-9a-f]{64}")


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
        str,
        typer.Option(
            "--key",
            metavar="NAME|DIGEST",
            help="Only records about this key; one that was destroyed is best named by its digest.",
            show_default=False,
        ),
    ] = "",
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=100_000, help="Number of rows.")] = 50,
) -> None:
    """Show the newest records in the order of the log.

    An attempt and its outcome are one row. The result "open" means that no outcome has been recorded (yet). Operators and
    auditors see all records, others those that `hsmd audit about` prints.
    """
    wanted = rows.Filter(client, key, _digest_of(session, key) if key else "")
    found, size = _newest(session, wanted, count)
    session.output.show(
        {"size": size, "records": [row.document for row in found]},
        lambda: table(rows.HEADERS, [row.cells for row in found]),
    )


def _newest(session: Session, wanted: rows.Filter, count: int) -> tuple[list[rows.Row], int]:
    caller = session.ask(WhoAmI(), Identity)
    if {role.value for role in AuditRead.roles} & {caller.role, *caller.roles}:
        return rows.newest(partial(read_page, session), wanted, count)
    found = rows.newest_of(readable(session), wanted, count)
    return found, session.ask(AuditAbout(first=(1 << 53) - 1, limit=1), AuditLines).size


def _digest_of(session: Session, key: str) -> str:
    """The key's digest; empty if there is no such key that the caller may see."""
    if _DIGEST.fullmatch(key):
        return key
    try:
        return session.ask(KeyShow(name=key), KeyInfo).digest
    except (NotFound, Refused):
        return ""
