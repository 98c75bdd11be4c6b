"""`hsmd key owner`: who may read all audit records about a key."""

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
    """Who may read all audit records about a key.

    A client reads the records about itself: its uses of keys, and what was refused to it. A key owner also reads what others
    did with the key, with `hsmd audit about`. Owning a key gives no right to use it."""
)
app.add_typer(owner, name="owner")

Client = Annotated[str, typer.Argument(metavar="CLIENT", help="Name of the client.", show_default=False)]


@command(owner, "add", example="hsmd key owner add www web-team")
def add(session: Session, name: KeyName, client: Client) -> None:
    """Let a client read all records about a key."""
    done = session.ask(KeyOwnerAdd(key=name, client=client), Done)
    told = "may read all records about" if done.changed else "could already read all records about"
    session.output.show(done, lambda: f"{client} {told} {name}")


@command(owner, "remove", example="hsmd key owner remove www web-team")
def remove(session: Session, name: KeyName, client: Client) -> None:
    """Let a client no longer read all records about a key; those about itself it still may."""
    done = session.ask(KeyOwnerRemove(key=name, client=client), Done)
    told = "no longer owns" if done.changed else "did not own"
    session.output.show(done, lambda: f"{client} {told} {name}")


@command(owner, "list", example="hsmd key owner list")
def list_owners(session: Session) -> None:
    """List the owners of all keys."""
    found = session.ask(KeyOwnerList(), KeyOwners)
    session.output.show(
        found, lambda: table(("KEY", "OWNER"), [(each.key, each.client) for each in found.owners])
    )
