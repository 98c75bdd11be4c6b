"""`hsmd key candidates`: list the private keys in the token that could be adopted."""

from __future__ import annotations

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.output import table
from hsmd.cli.key.options import Token, app
from hsmd.protocol.messages import (
    KeyCandidateList,
    KeyCandidates,
)


@command(app, "candidates", example="hsmd key candidates")
def candidates(session: Session, token: Token = "") -> None:
    """List the private keys in the token that could be adopted, and what is unsafe about each.

    These are keys that something else made there. hsmd serves none of them until you adopt it.
    """
    found = session.ask(KeyCandidates(token=token), KeyCandidateList)
    rows = [(key.cka_id, key.cka_label, key.key_type or "?", ", ".join(key.unsafe)) for key in found.keys]
    session.output.show(found, lambda: table(("CKA_ID", "CKA_LABEL", "TYPE", "UNSAFE"), rows))
