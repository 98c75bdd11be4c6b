"""`hsmd vault revoke`: end a version permanently."""

from __future__ import annotations

from typing import Annotated

import typer

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.names import not_empty
from hsmd.cli.base.times import earlier
from hsmd.cli.vault.change_output import show
from hsmd.cli.vault.options import (
    ManagementKeyFile,
    Opened,
    PassphraseFd,
    Reason,
    Record,
    SomeVersion,
    app,
    now,
)
from hsmd.cli.vault.owner import owner


@command(
    app,
    "revoke",
    example='hsmd vault revoke www --version 1 --reason "replaced"\n'
    'hsmd vault revoke www --version 1 --compromised --since 3d --reason "found in a backup"',
)
def revoke(
    session: Session,
    record: Record,
    version: SomeVersion,
    compromised: Annotated[bool, typer.Option("--compromised", help="Others may know the key.")] = False,
    since: Annotated[
        str,
        typer.Option(
            "--since",
            metavar="TIME",
            help="With --compromised: since when: 3d (ago), 2026-12-24 or 2026-12-24T18:30Z. Default: now.",
            callback=not_empty,
        ),
    ] = "",
    reason: Reason = "",
    management_key: ManagementKeyFile = None,
    passphrase_fd: PassphraseFd = None,
    opened: Opened = False,
) -> None:
    """Revoke a version permanently, or declare it compromised.

    It is not given out any more, and checks say so. Checkers are told by an event. To act at once without your management
    key, use `hsmd vault suspend`.
    """
    from hsmd.holder.changes import Changes

    at = now()
    if since and not compromised:
        raise CommandError("--since goes with --compromised", "add it, or leave --since out", Exit.USAGE)
    when = (earlier("--since", since, at) if since else at) if compromised else None
    if when is not None and when > at:
        raise CommandError(
            f"--since: {when:%Y-%m-%dT%H:%MZ} is in the future", "give a time that has passed", Exit.USAGE
        )
    with owner(session, management_key, passphrase_fd, opened=opened) as mine:
        statement = Changes(mine.prover, mine.seen).revoke(record, version, reason, at, when)
    show(session, statement)
