"""`hsmd statement endorse`: declare that a new key signs statements from now on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.names import KeyName
from hsmd.cli.base.output import note as hint
from hsmd.cli.statement.options import app, listed
from hsmd.errors import ProtocolError
from hsmd.protocol.messages import Done, StatementEndorse, StatementKeyList


@command(
    app,
    "endorse",
    example="hsmd key generate statement-2027 --type p-256 --purpose statement\n"
    'hsmd statement endorse statement-2027 --reason "the yearly change"',
)
def endorse(
    session: Session,
    name: KeyName,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="The reason, in one line.", show_default=False)
    ],
    old: Annotated[
        str,
        typer.Option(
            "--old",
            metavar="KEY",
            help="Verifier key line of the key before it. Default: the key that signs at present.",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Endorse a new key for statements: the daemons sign with it from now on, and clients that know your key accept it.

    The endorsement is signed with your SSH key (Ed25519). It cannot be withdrawn: clients that pinned the old key go on accepting
    the new one.
    """
    from hsmd.cli.base.ssh_keys import signing_key
    from hsmd.transparency.endorsement import Endorsement, sign
    from hsmd.transparency.lines import format_time

    shown = listed(session)
    before, new = _old(shown, old), _new(shown, name)
    if before == new:
        raise CommandError(
            f"{name} signs already", "name another key, or the key before it with --old", Exit.USAGE
        )
    endorsement = Endorsement(before, new, format_time(datetime.now(UTC)), reason)
    note = sign(endorsement, signing_key(session.profile().identity)).render()
    session.ask(StatementEndorse(note=note), Done)
    document = {"name": name, "old": before, "new": new, "note": note}
    session.output.show(document, lambda: note.rstrip("\n"))
    if not session.output.as_json:
        hint(
            f"The daemons sign with {name} from now on. Keep the old key while statements by it are verified."
        )


def _new(shown: StatementKeyList, name: str) -> str:
    for key in shown.keys:
        if key.name == name:
            return key.key
    raise CommandError(
        f"{name} is not a key for statements",
        "`hsmd statement keys` lists them; make one with: hsmd key generate NAME --type p-256 --purpose statement",
    )


def _old(shown: StatementKeyList, line: str) -> str:
    from hsmd.transparency.endorsement import material_of
    from hsmd.transparency.note import Verifier

    if not line:
        found = next((key.key for key in shown.keys if key.state == "signs"), "")
        if not found:
            raise CommandError(
                "no key signs statements yet",
                "there is nothing to replace: the first key needs no endorsement",
            )
        return found
    try:
        return material_of(Verifier.from_vkey(line))
    except ProtocolError as problem:
        raise CommandError(
            f"--old: {problem.text}", "`hsmd statement keys` prints verifier keys", Exit.USAGE
        ) from None
