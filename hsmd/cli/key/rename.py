"""`hsmd key rename`: rename a key."""

from __future__ import annotations

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.names import KeyName, NewName
from hsmd.cli.key.options import app
from hsmd.protocol.messages import (
    Done,
    KeyRename,
)


@command(app, "rename", example="hsmd key rename www www-2026")
def rename(session: Session, name: KeyName, new_name: NewName) -> None:
    """Rename a key. It keeps its grants and certificate, and its owner.

    Exported key files contain the old name: export them again.
    """
    session.ask(KeyRename(name=name, new_name=new_name), Done)
    session.output.show({"renamed": name, "name": new_name}, lambda: f"Renamed {name} to {new_name}.")
