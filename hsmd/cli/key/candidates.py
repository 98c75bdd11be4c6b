"""`hsmd key candidates`: list the private keys in the token that can be adopted."""

from __future__ import annotations

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.output import table
from hsmd.cli.base.paging import candidates_of
from hsmd.cli.key.options import Token, app


@command(app, "candidates", example="hsmd key candidates")
def candidates(session: Session, token: Token = "") -> None:
    """List private keys in the token that can be adopted, with their unsafe attributes.

    These keys were not created by hsmd. It uses none of them until you adopt it.
    """
    found = candidates_of(session, token)
    rows = [(key.cka_id, key.cka_label, key.key_type or "?", ", ".join(key.unsafe)) for key in found.keys]
    session.output.show(found, lambda: table(("CKA_ID", "CKA_LABEL", "TYPE", "UNSAFE"), rows))
