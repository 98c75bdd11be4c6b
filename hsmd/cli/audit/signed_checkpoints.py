"""Fetching the newest checkpoint, verified with the key that the daemon names."""

from __future__ import annotations

from hsmd.cli.base.connection import Session
from hsmd.cli.base.errors import CommandError
from hsmd.protocol.messages import AuditCheckpoint, SignedCheckpoint
from hsmd.transparency import checkpoint as checkpoints
from hsmd.transparency.checkpoint import Checkpoint
from hsmd.transparency.note import Verifier


def newest_checkpoint(session: Session) -> tuple[SignedCheckpoint, Checkpoint]:
    """The daemon's newest checkpoint, verified with the key that the daemon names. Raises CommandError if there is none."""
    answer = session.ask(AuditCheckpoint(), SignedCheckpoint)
    if not answer.note:
        raise CommandError(
            "the daemon has no checkpoint yet", "it signs one a few seconds after the first record; try again"
        )
    return answer, checkpoints.parse(answer.note, Verifier.from_vkey(answer.verifier_key))
