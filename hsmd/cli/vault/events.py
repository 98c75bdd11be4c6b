"""`hsmd vault events`: what happened to your keys in the vault, and to those that you check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.names import not_empty
from hsmd.cli.events import events as all_events
from hsmd.cli.events.program import DEFAULT_TIMEOUT_S
from hsmd.cli.vault.options import app
from hsmd.protocol.messages.enumerations import EVENT_KIND

PREFIX = "vault."


@command(
    app,
    "events",
    example="hsmd vault events\nhsmd vault events --follow --exec /usr/local/bin/tell-me",
)
def events(
    session: Session,
    since: Annotated[
        str,
        typer.Option(
            "--since",
            metavar="CURSOR",
            help="Begin behind this event (its ID), or `now`. Default: all that are kept; `now` with --follow alone.",
        ),
    ] = "",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep on with events as they happen, until interrupted.")
    ] = False,
    program: Annotated[
        str,
        typer.Option(
            "--exec",
            metavar="PROGRAM",
            help="Run this for each event, until it exits with 0. It gets the event as JSON on its standard input.",
            callback=not_empty,
        ),
    ] = "",
    exec_timeout: Annotated[
        float,
        typer.Option(
            "--exec-timeout", metavar="SECONDS", min=0.1, help="End a run of the program after this time."
        ),
    ] = DEFAULT_TIMEOUT_S,
    state: Annotated[
        Path | None,
        typer.Option(
            "--state", metavar="FILE", help="File to save the cursor in; the next start goes on behind it."
        ),
    ] = None,
) -> None:
    """Show what happened to keys in the vault: terms that end, uses, suspensions, revocations.

    Owners see those of their own records, checkers those of owners who have allowed them. It is `hsmd events` with the kinds that
    begin with `vault.`.
    """
    kinds = [kind for kind in EVENT_KIND.values if kind.startswith(PREFIX)]
    all_events(session, since, kinds, follow, program, exec_timeout, state)
