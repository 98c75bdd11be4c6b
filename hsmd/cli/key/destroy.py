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
            "--confirm", metavar="NAME", help="The name once more, instead of typing it.", show_default=False
        ),
    ] = "",
) -> None:
    """Destroy a key in the token for ever.

    There is no way back. You type the key's name once more to confirm, or give it with --confirm in a script.
    """
    if not confirm:
        session.ask(KeyShow(name=name), KeyInfo)  # nobody is asked about a key that is not there
        confirm = _ask_for(name)
    if confirm != name:
        raise CommandError(
            f"{confirm!r} is not {name!r}: nothing was destroyed",
            "type the name of the key exactly",
            Exit.USAGE,
        )
    done = session.ask(KeyDestroy(name=name, confirm=confirm), Done, timeout_s=SLOW_TIMEOUT_S)
    session.output.show({"destroyed": name, "changed": done.changed}, lambda: f"Destroyed {name}.")


def _ask_for(name: str) -> str:
    if not sys.stdin.isatty():
        raise CommandError("nobody can be asked to confirm", f"add --confirm {name}", Exit.USAGE)
    return str(
        typer.prompt(f"This destroys {name} in the token for ever. Type its name to confirm", err=True)
    )
