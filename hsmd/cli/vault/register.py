"""`hsmd vault register`: register the management key at the daemon."""

from __future__ import annotations

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.output import fields
from hsmd.cli.vault.options import ManagementKeyFile, PassphraseFd, app
from hsmd.cli.vault.owner import owner
from hsmd.protocol.messages import VaultRegistered


@command(app, "register", example="hsmd vault register\nhsmd vault register --management-key owner-key")
def register(
    session: Session,
    management_key: ManagementKeyFile = None,
    passphrase_fd: PassphraseFd = None,
) -> None:
    """Register your management key: the first one, or one after the loss of another.

    It counts once an operator has confirmed its fingerprint. Tell it to an operator in another way than through hsmd, for
    example by telephone: whoever has stolen your SSH key could register a management key of their own. To replace one that
    you still have, use `hsmd vault rekey`; confirming a new one instead loses what the old one protects.
    """
    from hsmd.holder.registration import register as send

    with owner(session, management_key, passphrase_fd) as mine:
        answer: VaultRegistered = send(mine.prover.daemon, mine.key)
    name = mine.key.statement.owner
    confirm = f"hsmd vault confirm {name} {answer.fingerprint}"
    session.output.show(
        answer,
        lambda: fields([("owner", name), ("state", answer.state), ("fingerprint", answer.fingerprint)]),
        hints=f"Next: an operator compares the fingerprint with yours, and runs: {confirm}",
    )
