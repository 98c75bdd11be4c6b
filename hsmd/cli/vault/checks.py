"""`hsmd vault checks`: who has checked keys of yours."""

from __future__ import annotations

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.output import table, when
from hsmd.cli.base.paging import checks_of
from hsmd.cli.vault.options import app


@command(app, "checks", example="hsmd vault checks\nhsmd vault checks --json")
def checks(session: Session) -> None:
    """List who has checked public keys against your records, in sums of each day."""
    found = checks_of(session)
    rows = [
        (each.day, each.asker, each.record, each.verdict, str(each.count), when(each.last_at))
        for each in found
    ]
    session.output.show(
        {"checks": found}, lambda: table(("DAY", "WHO", "RECORD", "VERDICT", "COUNT", "LAST"), rows)
    )
