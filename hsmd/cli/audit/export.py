"""`hsmd audit export`: print a range of records with a proof for a third party."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from hsmd.cli.audit.options import EXPORT_FORMAT, app, read_page
from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.errors import ProtocolError
from hsmd.protocol.messages import MAX_PAGE, AuditProve, InclusionProof


@command(
    app,
    "export",
    example="hsmd audit export --first 1000 --last 1999 > records\nhsmd audit verify-export records --public-key audit-key",
)
def export(
    session: Session,
    first: Annotated[int, typer.Option("--first", metavar="INDEX", min=0, help="Index of the first record.")],
    last: Annotated[int, typer.Option("--last", metavar="INDEX", min=0, help="Index of the last record.")],
) -> None:
    """Print a range of records with a proof that a third party can verify without the daemon.

    The first line is a JSON object with the signed checkpoint and the proof that it covers the last record. The records follow
    as in the log. Each contains the hash of the previous one, so that the last record proves all of them.
    """
    if last < first:
        raise CommandError(
            f"--last {last} is before --first {first}", "give --first and --last in order", Exit.USAGE
        )
    proven = session.ask(AuditProve(index=last), InclusionProof)
    head = {
        "format": EXPORT_FORMAT, "first": first, "last": last, "note": proven.note,
        "proof": [step.hex() for step in proven.proof],
    }  # fmt: skip
    print(json.dumps(head))
    while first <= last:
        page = read_page(session, first, min(MAX_PAGE, last - first + 1))
        if page.first != first or not page.lines:
            raise ProtocolError(f"the daemon did not return record {first}")
        for line in page.lines:
            print(line)
        first += len(page.lines)
