"""`hsmd key adopt`: serve a key that is already in the token."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hsmd.cli.base.certificate_files import certificate_text
from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import SLOW_TIMEOUT_S, Session
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.key_details import describe
from hsmd.cli.base.names import KeyName
from hsmd.cli.key.options import Purposes, Token, app
from hsmd.protocol.messages import (
    KeyAdopt,
    KeyInfo,
)


@command(
    app,
    "adopt",
    example="hsmd key adopt www --id 3a0f --purpose tls-server\n"
    "hsmd key adopt www --label web-2024 --purpose tls-server --certificate www.pem",
)
def adopt(
    session: Session,
    name: KeyName,
    cka_id: Annotated[str, typer.Option("--id", metavar="HEX", help="Its CKA_ID.", show_default=False)] = "",
    cka_label: Annotated[
        str, typer.Option("--label", metavar="TEXT", help="Its CKA_LABEL.", show_default=False)
    ] = "",
    certificate: Annotated[
        Path | None,
        typer.Option("--certificate", metavar="PEM", help="Gives the public half where the token has none."),
    ] = None,
    purpose: Purposes = [],  # noqa: B006  read only
    token: Token = "",
    accept_unsafe: Annotated[
        bool,
        typer.Option(
            "--accept-unsafe", help="Serve it although attributes of it are unsafe; they are named."
        ),
    ] = False,
) -> None:
    """Serve a key that is in the token already.

    Say which one by --id or --label, and with --purpose what it may ever be used for; a key that hsmd has made, imported or
    adopted before has its purposes in the token and needs none. Unsafe attributes (extractable, not sensitive, may sign and
    decrypt, ...) are named and the key is refused, unless you accept them knowingly.
    """
    if bool(cka_id) == bool(cka_label):
        raise CommandError("the key must be named in exactly one way", "give --id or --label", Exit.USAGE)
    request = KeyAdopt(
        name=name,
        purposes=purpose,
        token=token,
        cka_id=cka_id.replace(":", "").lower(),
        cka_label=cka_label,
        certificate=certificate_text(certificate) if certificate else "",
        accept_unsafe=accept_unsafe,
    )
    with session.output.working("the token is looking for the key"):
        info = session.ask(request, KeyInfo, timeout_s=SLOW_TIMEOUT_S)
    session.output.show(info, lambda: describe(info))
