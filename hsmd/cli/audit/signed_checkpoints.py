"""Fetching and verifying signed checkpoints."""

from __future__ import annotations

from hsmd.cli.base.connection import Session
from hsmd.cli.base.errors import CommandError
from hsmd.protocol.messages import AuditCheckpoint, SignedCheckpoint
from hsmd.transparency import checkpoint as checkpoints
from hsmd.transparency.checkpoint import Checkpoint
from hsmd.transparency.keyring import KeyRing
from hsmd.transparency.note import Note, Verifier


def newest_checkpoint(session: Session) -> tuple[SignedCheckpoint, Checkpoint]:
    """The daemon's newest checkpoint, verified with the key that the daemon names. Raises CommandError if there is none."""
    answer = session.ask(AuditCheckpoint(), SignedCheckpoint)
    if not answer.note:
        raise CommandError(
            "the daemon has no checkpoint yet", "it signs one a few seconds after the first record; try again"
        )
    return answer, checkpoints.parse(answer.note, Verifier.from_vkey(answer.verifier_key))


def signed_checkpoint(text: str, keys: KeyRing) -> Checkpoint:
    """A checkpoint of any origin, signed by one of `keys`. Raises ProofInvalid or ProtocolError."""
    note = Note.parse(text)
    signature = note.signatures[0]
    return checkpoints.parse(note, keys.verifier(signature.name, signature.key_id))
