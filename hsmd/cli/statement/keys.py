"""`hsmd statement keys`: list the keys that sign statements, and remember those that may be accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.errors import CheckFailed, CommandError, Exit
from hsmd.cli.base.output import note, table
from hsmd.cli.statement.options import app, listed
from hsmd.errors import ConfigurationError

if TYPE_CHECKING:
    from hsmd.protocol.messages import StatementKey, StatementKeyList

_SIGNS = "signs"


@command(
    app,
    "keys",
    example="hsmd statement keys\nhsmd statement keys --verifier-keys > statement-keys",
)
def keys(
    session: Session,
    verifier_keys: Annotated[
        bool,
        typer.Option(
            "--verifier-keys",
            help="Print only the accepted keys, as C2SP verifier key lines for `hsmd statement verify --key`.",
        ),
    ] = False,
) -> None:
    """List the keys with which the daemons sign statements, and whether you accept them.

    Keys are accepted if they were pinned at enrolment, or if an operator whose key was pinned has endorsed them since. What is
    accepted is remembered for `hsmd statement verify`, which needs no connection. Exit code 4: the daemon signs with a key that
    is not accepted.
    """
    shown = listed(session)
    accepted = _learned(session, shown)
    rows = [_Row(key, line, line in accepted) for key in shown.keys for line in key.verifier_keys]
    if verifier_keys and not session.output.as_json:
        session.output.show(None, lambda: "\n".join(row.line for row in rows if row.accepted))
    else:
        document = {
            "keys": [
                {
                    "name": row.key.name,
                    "state": row.key.state,
                    "verifier_key": row.line,
                    "accepted": row.accepted,
                }
                for row in rows
            ],
            "endorsements": shown.endorsements,
        }
        session.output.show(document, lambda: table(_HEADERS, [row.cells() for row in rows]))
    if not session.output.as_json:
        _hint(shown)
    if any(row.key.state == _SIGNS and not row.accepted for row in rows):
        note(
            "hsmd: the daemon signs with a key that does not follow from those pinned here - ask an operator to endorse it "
            "(hsmd statement endorse)"
        )
        raise CheckFailed


_HEADERS = ("KEY", "STATE", "ACCEPTED", "VERIFIER KEY")


class _Row:
    """A key under the name of one daemon."""

    def __init__(self, key: StatementKey, line: str, accepted: bool) -> None:
        self.key, self.line, self.accepted = key, line, accepted

    def cells(self) -> tuple[str, ...]:
        return (self.key.name, self.key.state, "yes" if self.accepted else "no", self.line)


def _learned(session: Session, shown: StatementKeyList) -> set[str]:
    """The lines of the accepted keys; what the daemon shows if only options name it, so that nothing is pinned."""
    pins = session.statement_pins()
    if pins is None:
        return {line for key in shown.keys if key.state != "waits" for line in key.verifier_keys}
    try:
        return {key.vkey for key in pins.learn(shown)}
    except ConfigurationError as error:
        raise CommandError("; ".join(error.faults), "", Exit.USAGE) from None


def _hint(shown: StatementKeyList) -> None:
    if not shown.keys:
        note("The daemons have not signed a statement yet; their key is generated with the first one.")
    for key in shown.keys:
        if key.state == "waits":
            note(f"Next: an operator endorses the new key (hsmd statement endorse {key.name} --reason TEXT)")
