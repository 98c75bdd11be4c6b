"""`hsmd key owner`: the former name of `hsmd key reader`, which scripts may use; not shown."""

from __future__ import annotations

from typing import Annotated

import typer

from hsmd.cli.base.commands import command, group
from hsmd.cli.base.connection import Session
from hsmd.cli.base.names import KeyName
from hsmd.cli.base.output import table
from hsmd.cli.base.paging import readers_of
from hsmd.cli.key.options import app
from hsmd.protocol.messages import Done, KeyOwnerAdd, KeyOwnerRemove

owner = group(
    """Former name of `hsmd key reader`. The owner of a key is given when the key is made: `hsmd key generate --owner`."""
)
app.add_typer(owner, name="owner", hidden=True)

Client = Annotated[str, typer.Argument(metavar="CLIENT", help="Name of the client.", show_default=False)]


@command(owner, "add", example="hsmd key owner add www web-team")
def add(session: Session, name: KeyName, client: Client) -> None:
    """Allow a client to read all audit records about a key, as `hsmd key reader add` does."""
    done = session.ask(KeyOwnerAdd(key=name, client=client), Done)
    result = "may read all records about" if done.changed else "could already read all records about"
    session.output.show(done, lambda: f"{client} {result} {name}.")


@command(owner, "remove", example="hsmd key owner remove www web-team")
def remove(session: Session, name: KeyName, client: Client) -> None:
    """Remove a reader of a key; the client can still read the records about itself."""
    done = session.ask(KeyOwnerRemove(key=name, client=client), Done)
    result = "no longer owns" if done.changed else "did not own"
    session.output.show(done, lambda: f"{client} {result} {name}.")


@command(owner, "list", example="hsmd key owner list")
def list_owners(session: Session) -> None:
    """List the readers of all keys, as `hsmd key reader list` does."""
    found = readers_of(session)
    session.output.show(
        {"owners": found}, lambda: table(("KEY", "OWNER"), [(each.key, each.client) for each in found])
    )
