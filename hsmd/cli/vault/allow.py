"""`hsmd vault allow`: let a client check public keys against your records."""

from __future__ import annotations

from typing import Annotated

import typer

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.vault.options import ManagementKeyFile, Opened, PassphraseFd, app
from hsmd.cli.vault.owner import owner
from hsmd.protocol.messages import Done, VaultAllow

Client = Annotated[str, typer.Argument(metavar="[CLIENT]", help="Name of the client.", show_default=False)]
Checkers = Annotated[
    bool, typer.Option("--checkers", help="Every client with the role `checker`, instead of one client.")
]


@command(app, "allow", example="hsmd vault allow web1\nhsmd vault allow --checkers")
def allow(
    session: Session,
    client: Client = "",
    checkers: Checkers = False,
    management_key: ManagementKeyFile = None,
    passphrase_fd: PassphraseFd = None,
    opened: Opened = False,
) -> None:
    """Let a client check public keys against your records, and read the events about them.

    It learns whether a key that it has is yours, and how it stands; it cannot list your keys. All others get no answer.
    """
    check_one(client, checkers=checkers)
    with owner(session, management_key, passphrase_fd, opened=opened) as mine:
        done: Done = mine.prover.ask(VaultAllow(client, checkers))
    who = client or "every checker"
    session.output.show(
        {"client": client, "checkers": checkers, "changed": done.changed},
        lambda: f"Allowed {who} to check." if done.changed else f"{who} could check already.",
    )


def check_one(client: str, *, checkers: bool) -> None:
    """Raises CommandError unless either a client or --checkers is given."""
    if bool(client) == checkers:
        raise CommandError("name either a client or --checkers", "see: hsmd vault allow --help", Exit.USAGE)
