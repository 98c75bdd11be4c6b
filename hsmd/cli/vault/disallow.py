"""`hsmd vault disallow`: withdraw the right to check."""

from __future__ import annotations

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.vault.allow import Checkers, Client, check_one
from hsmd.cli.vault.options import ManagementKeyFile, Opened, PassphraseFd, app
from hsmd.cli.vault.owner import owner
from hsmd.protocol.messages import Done, VaultDisallow


@command(app, "disallow", example="hsmd vault disallow web1\nhsmd vault disallow --checkers")
def disallow(
    session: Session,
    client: Client = "",
    checkers: Checkers = False,
    management_key: ManagementKeyFile = None,
    passphrase_fd: PassphraseFd = None,
    opened: Opened = False,
) -> None:
    """Withdraw from a client, or from every checker, the right to check public keys against your records."""
    check_one(client, checkers=checkers)
    with owner(session, management_key, passphrase_fd, opened=opened) as mine:
        done: Done = mine.prover.ask(VaultDisallow(client, checkers))
    who = client or "every checker"
    session.output.show(
        {"client": client, "checkers": checkers, "changed": done.changed},
        lambda: f"{who} may not check any more." if done.changed else f"{who} could not check.",
    )
