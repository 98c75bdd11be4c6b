"""`hsmd key destroy`: destroy a key in the token permanently."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import SLOW_TIMEOUT_S, Session
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.names import KeyName
from hsmd.cli.key.options import app
from hsmd.protocol.messages import (
    Done,
    KeyDestroy,
    KeyInfo,
    KeyShow,
)


@command(app, "destroy", example="hsmd key destroy old-www\nhsmd key destroy old-www --confirm old-www")
def destroy(
    session: Session,
    name: KeyName,
    confirm: Annotated[
        str,
        typer.Option(
            "--confirm",
            metavar="NAME",
            help="The name again, instead of typing it at a prompt.",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Destroy a key in the token permanently.

    This cannot be undone. Confirm by typing the name of the key again, or with --confirm in a script.
    """
    if not confirm:
        session.ask(KeyShow(name=name), KeyInfo)  # fails for an unknown key before the prompt
        confirm = _ask_for(name)
    if confirm != name:
        raise CommandError(
            f"{confirm!r} is not {name!r}: nothing was destroyed",
            "type the exact name of the key",
            Exit.USAGE,
        )
    done = session.ask(KeyDestroy(name=name, confirm=confirm), Done, timeout_s=SLOW_TIMEOUT_S)
    session.output.show({"destroyed": name, "changed": done.changed}, lambda: f"Destroyed {name}.")


def _ask_for(name: str) -> str:
    if not sys.stdin.isatty():
        raise CommandError("there is no terminal for the confirmation", f"add --confirm {name}", Exit.USAGE)
    return str(
        typer.prompt(f"This destroys {name} in the token permanently. Type its name to confirm", err=True)
    )
