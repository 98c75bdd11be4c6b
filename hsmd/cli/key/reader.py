"""`hsmd key reader`: the clients that may read all audit records about a key."""

from __future__ import annotations

from hsmd.cli.base.commands import command, group
from hsmd.cli.base.connection import Session
from hsmd.cli.base.names import ClientName, KeyName
from hsmd.cli.base.output import table
from hsmd.cli.base.paging import readers_of
from hsmd.cli.key.options import app
from hsmd.protocol.messages import Done, KeyOwnerAdd, KeyOwnerRemove

reader = group(
    """Readers of keys: clients that may read all audit records about a key.

    With `hsmd audit about`, every client can read the records about itself: its uses of keys and its refused requests. A reader
    of a key can also read the records of other clients about that key, until you remove it. It may not use the key. The owner of
    a key, given when the key is made, always reads these records."""
)
app.add_typer(reader, name="reader")


@command(reader, "add", example="hsmd key reader add www web-team")
def add(session: Session, name: KeyName, client: ClientName) -> None:
    """Allow a client to read all audit records about a key."""
    done = session.ask(KeyOwnerAdd(key=name, client=client), Done)
    result = "may read all records about" if done.changed else "could already read all records about"
    session.output.show(done, lambda: f"{client} {result} {name}.")


@command(reader, "remove", example="hsmd key reader remove www web-team")
def remove(session: Session, name: KeyName, client: ClientName) -> None:
    """Remove a reader of a key; the client can still read the records about itself."""
    done = session.ask(KeyOwnerRemove(key=name, client=client), Done)
    result = "is no longer a reader of" if done.changed else "was not a reader of"
    session.output.show(done, lambda: f"{client} {result} {name}.")


@command(reader, "list", example="hsmd key reader list")
def list_readers(session: Session) -> None:
    """List the readers of all keys; owners are in `hsmd key list`."""
    found = readers_of(session)
    session.output.show(
        {"readers": found}, lambda: table(("KEY", "READER"), [(each.key, each.client) for each in found])
    )
