"""`hsmd audit key`: print the public key that signs checkpoints."""

from __future__ import annotations

from hsmd.cli.audit.options import app
from hsmd.cli.audit.signed_checkpoints import newest_checkpoint
from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session


@command(app, "key", example="hsmd audit key > audit-key")
def key(session: Session) -> None:
    """Print the public key for checkpoint signatures, as a C2SP verifier key line.

    Save it when the daemon is new, and give it to everyone who verifies the log, for `hsmd audit verify --public-key`.
    """
    answer, _ = newest_checkpoint(session)
    session.output.show({"verifier_key": answer.verifier_key}, lambda: answer.verifier_key)
