"""`hsmd vault confirm`: an operator confirms the management key of an owner."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.names import ClientName
from hsmd.cli.vault.options import app
from hsmd.cli.vault.problems import explained
from hsmd.protocol.messages import Done, VaultConfirm

_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")


@command(app, "confirm", example="hsmd vault confirm anna SHA256:cWaBYjVhvBwTFF2B7fIMT2C8oqjPGxsVwvxEtkZqDEw")
def confirm(
    session: Session,
    client: ClientName,
    fingerprint: Annotated[
        str,
        typer.Argument(
            metavar="FINGERPRINT",
            help="Fingerprint of the key, as the owner told it to you.",
            show_default=False,
        ),
    ],
) -> None:
    """As an operator, confirm the management key that an owner has registered.

    Take the fingerprint from the owner, over another channel than hsmd, and never from `hsmd vault keys`: that shows what was
    registered, by whoever has the owner's SSH key. If the owner had another management key before, what is sealed to it is lost.

    After a restore of the daemon's store, the active management key is held until it is confirmed again. Ask the owner whether
    it was replaced after the backup.
    """
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise CommandError(
            f"{fingerprint!r} is not a fingerprint",
            "it is SHA256: and 43 characters, as keygen shows it",
            Exit.USAGE,
        )
    with explained():
        done = session.ask(VaultConfirm(client, fingerprint), Done)
    session.output.show(
        {"owner": client, "fingerprint": fingerprint, "changed": done.changed},
        lambda: (
            f"Confirmed the management key of {client}."
            if done.changed
            else f"This management key of {client} was confirmed already."
        ),
        hints="Next: the owner deposits keys (hsmd vault put, hsmd vault generate), or after a restore states the limits of "
        "those that are there again (hsmd vault limits RECORD --confirm).",
    )
