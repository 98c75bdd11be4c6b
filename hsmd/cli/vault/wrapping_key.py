"""`hsmd vault wrapping-key`: print the public half of the wrapping key, for other software that wraps keys."""

from __future__ import annotations

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.vault.deposit_output import pem
from hsmd.cli.vault.options import ManagementKeyFile, app
from hsmd.cli.vault.owner import KEY_NAME


@command(app, "wrapping-key", example="hsmd vault wrapping-key > wrapping.pub")
def wrapping_key(session: Session, management_key: ManagementKeyFile = None) -> None:
    """Print the public half of your wrapping key as PEM: other software wraps keys to it, for `hsmd vault put --wrapped`.

    It comes from the file of your management key; the daemon is not asked, and no passphrase is needed.
    """
    from hsmd.holder import management_files

    path = management_key or session.directory / KEY_NAME
    _, statement = management_files.read(path)
    if statement.wrapping_key is None:
        raise CommandError(
            f"the wrapping key in {path} is symmetric, and has no public half",
            "use a management key of another suite",
            Exit.USAGE,
        )
    document = {
        "owner": statement.owner,
        "number": statement.number,
        "suite": statement.suite.value,
        "public_key": pem(statement.wrapping),
    }
    session.output.show(document, lambda: pem(statement.wrapping).rstrip())
