"""`hsmd key show`: show the properties of a key."""

from __future__ import annotations

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.key_details import describe
from hsmd.cli.base.names import KeyName
from hsmd.cli.key.options import app
from hsmd.protocol.messages import (
    KeyInfo,
    KeyShow,
)


@command(app, "show", example="hsmd key show www")
def show(session: Session, name: KeyName) -> None:
    """Show a key: type, purposes, digest of the public key, expiry of its certificate, warnings."""
    info = session.ask(KeyShow(name=name), KeyInfo)
    session.output.show(info, lambda: describe(info))
