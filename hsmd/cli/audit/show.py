"""`hsmd audit show`: show the newest records as a table."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Annotated

import typer

from hsmd.cli.audit import rows
from hsmd.cli.audit.options import app, read_page, readable
from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.output import table
from hsmd.cli.base.paging import destroyed_keys_of, keys_of
from hsmd.cli.base.permissions import may
from hsmd.cli.base.times import earlier
from hsmd.errors import BadRequest, NotFound
from hsmd.protocol.messages import (
    AuditAbout,
    AuditLines,
    AuditRead,
    Identity,
    KeyHistory,
    KeyInfo,
    KeyList,
    KeyShow,
    WhoAmI,
)
from hsmd.transparency.lines import format_time

_DIGEST = re.compile("[0-9a-f]{64}")


@command(
    app,
    "show",
    example="hsmd audit show\nhsmd audit show --client web1 --count 200\nhsmd audit show --key www --json\n"
    "hsmd audit show --since 8h --failed",
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
            help="Only records about this key, which may have been destroyed.",
            show_default=False,
        ),
    ] = "",
    since: Annotated[
        str,
        typer.Option(
            "--since",
            metavar="TIME|8h",
            help="Only records since this time, or of the last 8h, 2d.",
            show_default=False,
        ),
    ] = "",
    failed: Annotated[bool, typer.Option("--failed", help="Only what was refused or failed.")] = False,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=100_000, help="Number of rows.")] = 50,
) -> None:
    """Show the newest records in the order of the log.

    An attempt and its outcome are one row. The result "open" means that no outcome has been recorded (yet). Operators and
    auditors see all records, others those that `hsmd audit about` prints.
    """
    caller = session.ask(WhoAmI(), Identity)
    digests = _digests_of(session, key, caller) if key else frozenset()
    first = format_time(earlier("--since", since, datetime.now(UTC))) if since else ""
    wanted = rows.Filter(client, key, digests, first, failed)
    found, size = _newest(session, wanted, count, caller)
    session.output.show(
        {"size": size, "records": [row.document for row in found]},
        lambda: table(rows.HEADERS, [row.cells for row in found], whole=4),
    )


def _newest(
    session: Session, wanted: rows.Filter, count: int, caller: Identity
) -> tuple[list[rows.Row], int]:
    if may(caller, AuditRead):
        return rows.newest(partial(read_page, session), wanted, count)
    found = rows.newest_of(readable(session), wanted, count)
    return found, session.ask(AuditAbout(first=(1 << 53) - 1, limit=1), AuditLines).size


def _digests_of(session: Session, key: str, caller: Identity) -> frozenset[str]:
    """The digest of the key with this name, or of those that had it before they were destroyed.

    It asks for nothing that is refused: refusals are records, too.
    """
    if _DIGEST.fullmatch(key):
        return frozenset({key})
    found: set[str] = set()
    if may(caller, AuditRead):
        with suppress(NotFound):
            found.add(session.ask(KeyShow(name=key), KeyInfo).digest)
    elif may(caller, KeyList):
        found.update(each.digest for each in keys_of(session) if each.name == key)
    if not found and may(caller, KeyHistory):
        with suppress(BadRequest):  # a daemon of an earlier release
            past = destroyed_keys_of(session)
            found.update(each.digest for each in past if key in [name.name for name in each.names])
    return frozenset(found)
