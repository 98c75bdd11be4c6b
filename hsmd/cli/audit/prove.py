"""`hsmd audit prove`: show one record with the proof that the newest checkpoint covers it."""

from __future__ import annotations

from typing import Annotated

import typer

from hsmd.cli.audit.options import PublicKey, app, key_ring
from hsmd.cli.audit.signed_checkpoints import newest_checkpoint
from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.output import fields
from hsmd.errors import ProofInvalid
from hsmd.protocol.messages import AuditProve, InclusionProof
from hsmd.transparency import checkpoint as checkpoints
from hsmd.transparency.lines import leaf_hash
from hsmd.transparency.merkle import verify_inclusion
from hsmd.transparency.note import Verifier


@command(app, "prove", example="hsmd audit prove 1041 --public-key audit-key --json > proof.json")
def prove(
    session: Session,
    index: Annotated[int, typer.Argument(metavar="INDEX", help="Index of the record.", min=0)],
    public_key: PublicKey = None,
) -> None:
    """Show a record with the proof that the newest checkpoint covers it, and verify the proof.

    The output of --json is sufficient for a third party: record, inclusion path (RFC 9162, section 2.1.3) and signed
    checkpoint.
    """
    proven = session.ask(AuditProve(index=index), InclusionProof)
    if public_key is not None:
        found = checkpoints.parse_signed(proven.note, key_ring(public_key))
    else:
        found = checkpoints.parse(proven.note, Verifier.from_vkey(newest_checkpoint(session)[0].verifier_key))
    if (proven.index, proven.size) != (index, found.size):
        raise ProofInvalid("the daemon returned the proof of another record")
    verify_inclusion(index, found.size, leaf_hash(proven.line.encode()), proven.proof, found.root)
    document = {
        "index": index, "size": found.size, "record": proven.line, "proof": [step.hex() for step in proven.proof],
        "note": proven.note,
    }  # fmt: skip
    session.output.show(
        document,
        lambda: fields(
            [
                ("record", proven.line),
                ("included in", f"the first {found.size} records of {found.origin}"),
                ("root", found.root.hex()),
            ]
        ),
    )
