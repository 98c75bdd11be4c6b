"""`hsmd vault resume`: give a suspended version out again."""

from __future__ import annotations

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.vault.options import ManagementKeyFile, Opened, PassphraseFd, Record, SomeVersion, app
from hsmd.cli.vault.owner import owner
from hsmd.protocol.messages import Done, VaultResume


@command(app, "resume", example="hsmd vault resume www --version 2")
def resume(
    session: Session,
    record: Record,
    version: SomeVersion,
    management_key: ManagementKeyFile = None,
    passphrase_fd: PassphraseFd = None,
    opened: Opened = False,
) -> None:
    """Resume a version that was suspended: it is given out again, within its limits.

    This needs your management key: whoever has only your SSH key can suspend, and not resume.
    """
    with owner(session, management_key, passphrase_fd, opened=opened) as mine:
        done: Done = mine.prover.ask(VaultResume(record, version), record, version)
    session.output.show(
        {"record": record, "version": version, "changed": done.changed},
        lambda: f"Resumed {record} version {version}." if done.changed else "It was not suspended.",
    )
