"""`hsmd key show`: show the properties of a key."""

from __future__ import annotations

import contextlib

import msgspec

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.key_details import describe
from hsmd.cli.base.names import KeyName
from hsmd.cli.base.paging import front_ends_of
from hsmd.cli.key.options import app
from hsmd.errors import BadRequest
from hsmd.protocol.messages import (
    Identity,
    KeyInfo,
    KeyShow,
    ServedBy,
    WhoAmI,
)

_OPERATORS = {"operator", "auditor"}


@command(app, "show", example="hsmd key show www")
def show(session: Session, name: KeyName) -> None:
    """Show a key: type, purposes, digest of the public key, expiry of its certificate, the front ends that serve it, warnings."""
    info = session.ask(KeyShow(name=name), KeyInfo)
    served: list[ServedBy] = []
    if _OPERATORS.intersection(session.ask(WhoAmI(), Identity).roles):
        with contextlib.suppress(BadRequest):  # from a daemon of an earlier release
            served = front_ends_of(session, name)
    session.output.show({**msgspec.to_builtins(info), "served_by": served}, lambda: describe(info, served))
