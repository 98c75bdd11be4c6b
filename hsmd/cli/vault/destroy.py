"""`hsmd vault destroy`: have the envelope of a version deleted."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.errors import CommandError, Exit
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
    "destroy",
    example="hsmd vault destroy www --version 1\nhsmd vault destroy www --version 1 --confirm www",
)
def destroy(
    session: Session,
    record: Record,
    version: SomeVersion,
    confirm: Annotated[
        str,
        typer.Option(
            "--confirm",
            metavar="RECORD",
            help="The name again, instead of typing it at a prompt.",
            show_default=False,
        ),
    ] = "",
    reason: Reason = "",
    management_key: ManagementKeyFile = None,
    passphrase_fd: PassphraseFd = None,
    opened: Opened = False,
) -> None:
    """Destroy a version permanently: its envelope is deleted, its public half and history stay.

    This cannot be undone. Backups of the daemon keep the envelope until they expire; it opens with your management key only.
    Confirm by typing the name of the record, or with --confirm in a script.
    """
    from hsmd.holder.changes import Changes

    if not confirm:
        confirm = _ask_for(record, version)
    if confirm != record:
        raise CommandError(
            f"{confirm!r} is not {record!r}: nothing was destroyed",
            "type the exact name of the record",
            Exit.USAGE,
        )
    with owner(session, management_key, passphrase_fd, opened=opened) as mine:
        statement = Changes(mine.prover, mine.seen).destroy(record, version, reason, now())
    show(session, statement)


def _ask_for(record: str, version: int) -> str:
    if not sys.stdin.isatty():
        raise CommandError("there is no terminal for the confirmation", f"add --confirm {record}", Exit.USAGE)
    question = f"This destroys {record} version {version} permanently. Type the name of the record to confirm"
    return str(typer.prompt(question, err=True))
