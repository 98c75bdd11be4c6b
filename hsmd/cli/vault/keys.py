"""`hsmd vault keys`: list the management keys of an owner."""

from __future__ import annotations

from typing import Annotated

import typer

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.output import table_with_lines, when
from hsmd.cli.base.paging import management_keys_of
from hsmd.cli.vault.options import app
from hsmd.protocol.messages import ManagementKeyList


@command(app, "keys", example="hsmd vault keys\nhsmd vault keys anna")
def keys(
    session: Session,
    client: Annotated[
        str,
        typer.Argument(metavar="[CLIENT]", help="As an operator or auditor: whose keys.", show_default=False),
    ] = "",
) -> None:
    """List management keys, the newest first, with how many deposits are sealed to each.

    Active: used for proofs and new deposits. Pending: an operator has not confirmed it. Replaced: `hsmd vault rekey` has begun
    and is not finished. Retired: nothing is sealed to it. Lost: a new one was confirmed without its help. Held: the daemon's
    store was restored, and the key, which may have been replaced since, proves nothing until an operator confirms it again.
    """
    found = ManagementKeyList(management_keys_of(session, client))
    rows = [
        (
            str(key.number),
            key.state + ", held" * key.held,
            str(key.deposits),
            when(key.created_at),
            key.fingerprint,
        )
        for key in found.keys
    ]
    session.output.show(
        found,
        lambda: table_with_lines(
            ("NUMBER", "STATE", "DEPOSITS", "REGISTERED", "FINGERPRINT"), rows, [row[-1:] for row in rows]
        ),
        hints=_next(session, client, found),
    )


def _next(session: Session, client: str, found: ManagementKeyList) -> str:
    if not found.keys and not client:
        return f"You ({session.profile().user}) have registered none; as an operator, name the owner: hsmd vault keys OWNER"
    if not any(key.held and key.state == "active" for key in found.keys):
        return ""
    owner = client or session.profile().user
    return (
        "The daemon's store was restored: the active management key proves nothing until an operator confirms it again: "
        f"hsmd vault confirm {owner} FINGERPRINT, with the fingerprint that the owner tells.\n"
        "If it was replaced after the backup, do not confirm it: the owner registers the newer one (hsmd vault register)."
    )
