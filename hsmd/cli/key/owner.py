"""`hsmd key owner`: the clients that may read all audit records about a key."""

from __future__ import annotations

from typing import Annotated

import typer

from hsmd.cli.base.commands import command, group
from hsmd.cli.base.connection import Session
from hsmd.cli.base.names import KeyName
from hsmd.cli.base.output import table
from hsmd.cli.key.options import app
from hsmd.protocol.messages import Done, KeyOwnerAdd, KeyOwnerList, KeyOwnerRemove, KeyOwners

owner = group(
    """Owners of keys: clients that may read all audit records about a key.

    With `hsmd audit about`, every client can read the records about itself: its uses of keys and its refused requests. The owner
    of a key can also read the records of other clients about that key. Ownership does not permit the use of the key."""
)
app.add_typer(owner, name="owner")

Client = Annotated[str, typer.Argument(metavar="CLIENT", help="Name of the client.", show_default=False)]


@command(owner, "add", example="hsmd key owner add www web-team")
def add(session: Session, name: KeyName, client: Client) -> None:
    """Allow a client to read all audit records about a key."""
    done = session.ask(KeyOwnerAdd(key=name, client=client), Done)
    result = "may read all records about" if done.changed else "could already read all records about"
    session.output.show(done, lambda: f"{client} {result} {name}.")


@command(owner, "remove", example="hsmd key owner remove www web-team")
def remove(session: Session, name: KeyName, client: Client) -> None:
    """Remove an owner of a key; the client can still read the records about itself."""
    done = session.ask(KeyOwnerRemove(key=name, client=client), Done)
    result = "no longer owns" if done.changed else "did not own"
    session.output.show(done, lambda: f"{client} {result} {name}.")


@command(owner, "list", example="hsmd key owner list")
def list_owners(session: Session) -> None:
    """List the owners of all keys."""
    found = session.ask(KeyOwnerList(), KeyOwners)
    session.output.show(
        found, lambda: table(("KEY", "OWNER"), [(each.key, each.client) for each in found.owners])
    )
