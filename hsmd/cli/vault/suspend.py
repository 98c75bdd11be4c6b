"""`hsmd vault suspend`: stop giving out a version, with your login alone."""

from __future__ import annotations

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.vault.options import Reason, Record, SomeVersion, app
from hsmd.cli.vault.problems import explained
from hsmd.protocol.messages import Done, VaultSuspend


@command(app, "suspend", example='hsmd vault suspend www --version 2 --reason "laptop stolen"')
def suspend(session: Session, record: Record, version: SomeVersion, reason: Reason = "") -> None:
    """Suspend a version: it is not given out, and checks say so, until you resume it.

    The management key is not needed, so that you can act at once after a loss. Resuming needs it.
    """
    with explained():
        done = session.ask(VaultSuspend(record, version, reason), Done)
    session.output.show(
        {"record": record, "version": version, "changed": done.changed},
        lambda: f"Suspended {record} version {version}." if done.changed else "It was suspended already.",
        hints=f"To undo: hsmd vault resume {record} --version {version}",
    )
