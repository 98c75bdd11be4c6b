"""`hsmd audit discontinuity`: declare a break in the audit log after a restore."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from hsmd.cli.audit.options import app
from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.protocol.messages import AuditDiscontinuity, AuditStand, AuditStanding, Done


@command(
    app, "discontinuity", example='hsmd audit discontinuity --reason "restored from the backup of Friday"'
)
def discontinuity(
    session: Session,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why, in one line.", show_default=False)
    ],
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Even if the daemon finds nothing wrong, because witnesses do.")
    ] = False,
) -> None:
    """Declare that the daemon's log does not continue what was seen of it, after a restore from backup.

    The declaration is signed with your SSH key (Ed25519), recorded, and handed to the agents; those with your key among their
    `operator_keys` accept the break and report it. First find out that it is the restore, and nothing else, that made the log
    what it is: this is the last time anybody will be warned.
    """
    session.witnessed = False  # it is just the log that is not the one seen
    standing = session.ask(AuditStand(), AuditStanding)
    if not standing.held and not anyway:
        raise CommandError(
            f"the daemon knows no more of {standing.origin} than the {standing.size} records it has",
            "if agents refuse it all the same, add --anyway",
            Exit.USAGE,
        )
    note = _signed(standing, reason, session.profile().identity)
    session.ask(AuditDiscontinuity(note=note), Done)
    document = {"origin": standing.origin, "size": standing.size, "root": standing.root.hex(), "note": note}
    session.output.show(document, lambda: note.rstrip("\n"))


def _signed(standing: AuditStanding, reason: str, identity: Path | None) -> str:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    from hsmd.transparency.discontinuity import Discontinuity, State, sign
    from hsmd.transparency.lines import format_time

    if not standing.verifier_key:
        raise CommandError(
            "the daemon has no key for checkpoints yet", "nobody can have seen one; nothing to declare"
        )
    try:
        key = load_ssh_private_key(identity.read_bytes() if identity else b"", password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise CommandError(
            f"{identity} is not an Ed25519 SSH key without passphrase",
            "declare it with such a key",
            Exit.USAGE,
        )
    old = State(standing.remembered_size, standing.remembered_root) if standing.remembered_size >= 0 else None
    new = State(standing.size, standing.root)
    found = Discontinuity(
        standing.origin, old, new, standing.verifier_key, format_time(datetime.now(UTC)), reason
    )
    return sign(found, key).render()
