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
        str, typer.Option("--reason", metavar="TEXT", help="The reason, in one line.", show_default=False)
    ],
    anyway: Annotated[
        bool,
        typer.Option(
            "--anyway", help="Declare the break even if the daemon detects none, because agents do."
        ),
    ] = False,
) -> None:
    """Declare a break in the audit log after a restore.

    The declaration is signed with your SSH key (Ed25519), recorded in the log, and sent to the agents. Agents with your key in
    `operator_keys` accept the break and report it. First make sure that the restore, and nothing else, changed the log: no
    further warning is given.
    """
    session.witnessed = False  # the log is expected to differ from the one seen before
    standing = session.ask(AuditStand(), AuditStanding)
    if not standing.held and not anyway:
        raise CommandError(
            f"the daemon detects no break in {standing.origin}, which has {standing.size} records",
            "if agents refuse the log nevertheless, add --anyway",
            Exit.USAGE,
        )
    note = _signed(standing, reason, session.profile().identity)
    session.ask(AuditDiscontinuity(note=note), Done)
    document = {"origin": standing.origin, "size": standing.size, "root": standing.root.hex(), "note": note}
    session.output.show(document, lambda: note.rstrip("\n"))


def _signed(standing: AuditStanding, reason: str, identity: Path | None) -> str:
    from hsmd.cli.base.ssh_keys import signing_key
    from hsmd.transparency.discontinuity import Discontinuity, State, sign
    from hsmd.transparency.lines import format_time

    if not standing.verifier_key:
        raise CommandError("the daemon has not signed a checkpoint yet", "there is no break to declare")
    key = signing_key(identity)
    old = State(standing.remembered_size, standing.remembered_root) if standing.remembered_size >= 0 else None
    new = State(standing.size, standing.root)
    found = Discontinuity(
        standing.origin, old, new, standing.verifier_key, format_time(datetime.now(UTC)), reason
    )
    return sign(found, key).render()
