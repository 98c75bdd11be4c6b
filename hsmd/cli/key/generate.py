"""`hsmd key generate`: generate a key in the token."""

from __future__ import annotations

from typing import Annotated

import typer

from hsmd.algorithms import KeyType
from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import SLOW_TIMEOUT_S, Session
from hsmd.cli.base.key_details import describe
from hsmd.cli.base.names import KeyName
from hsmd.cli.base.output import note
from hsmd.cli.key.options import Owner, Purposes, Token, app
from hsmd.protocol.messages import (
    KeyGenerate,
    KeyInfo,
)
from hsmd.purposes import GRANTABLE, Purpose

_NOT_GRANTED = {purpose.label for purpose in frozenset(Purpose) - GRANTABLE}


@command(
    app,
    "generate",
    example="hsmd key generate www --type p-256 --purpose tls13-server\n"
    "hsmd key generate shop --type rsa-2048 --purpose tls-server\n"
    "hsmd key generate pay --owner payments",
)
def generate(
    session: Session,
    name: KeyName,
    key_type: Annotated[KeyType, typer.Option("--type", "-t", help="Type of the key.")] = KeyType.P256,
    purpose: Purposes = ["tls-server"],  # noqa: B006  read only
    token: Token = "",
    owner: Owner = "",
) -> None:
    """Generate a key in the token.

    The private key never leaves the token. The purposes limit the key permanently: a grant can allow fewer of them, never more.
    A key signs, decrypts or unwraps: one of the three.
    """
    request = KeyGenerate(name=name, key_type=key_type.value, purposes=purpose, token=token, owner=owner)
    with session.output.working(f"the token is generating a key of type {key_type.value}"):
        info = session.ask(request, KeyInfo, timeout_s=SLOW_TIMEOUT_S)
    session.output.show(info, lambda: describe(info))
    if not session.output.as_json and not set(info.purposes) <= _NOT_GRANTED:
        note(
            f"Next: a certificate (hsmd key csr {name} or hsmd cert self-signed {name}), "
            f"and a grant (hsmd grant add CLIENT {name})"
        )
