"""`hsmd key adopt`: start serving a key that is already in the token."""

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
from hsmd.cli.key.options import Owner, Purposes, Token, app
from hsmd.protocol.messages import (
    KeyAdopt,
    KeyInfo,
)


@command(
    app,
    "adopt",
    example="hsmd key adopt www --id 3a0f --purpose tls13-server\n"
    "hsmd key adopt www --label web-2024 --purpose tls13-server --certificate www.pem\n"
    "hsmd key adopt www --certificate www.pem --purpose tls13-server",
)
def adopt(
    session: Session,
    name: KeyName,
    cka_id: Annotated[
        str, typer.Option("--id", metavar="HEX", help="CKA_ID of the key.", show_default=False)
    ] = "",
    cka_label: Annotated[
        str, typer.Option("--label", metavar="TEXT", help="CKA_LABEL of the key.", show_default=False)
    ] = "",
    digest: Annotated[
        str,
        typer.Option(
            "--digest",
            metavar="HEX",
            help="SHA-256 of its public key, as `hsmd key candidates --json` shows it.",
            show_default=False,
        ),
    ] = "",
    certificate: Annotated[
        Path | None,
        typer.Option(
            "--certificate",
            metavar="PEM",
            help="Certificate of the key, if the token has no public key of it, or to choose among keys of one CKA_ID.",
        ),
    ] = None,
    purpose: Purposes = [],  # noqa: B006  read only
    token: Token = "",
    owner: Owner = "",
    accept_unsafe: Annotated[
        bool,
        typer.Option(
            "--accept-unsafe",
            help="Adopt the key in spite of unsafe attributes, which are then listed as warnings.",
        ),
    ] = False,
) -> None:
    """Start serving a key that is already in the token.

    Select the key with --id, --label or --digest, or by its certificate alone, and give its permitted uses with --purpose. A key
    that hsmd generated, imported or adopted before has its purposes in the token and needs none. A key with unsafe attributes
    (extractable, not sensitive, may sign and decrypt, ...) is refused unless you give --accept-unsafe.
    """
    named = sum([bool(cka_id), bool(cka_label), bool(digest)])
    if named > 1 or (named == 0 and certificate is None):
        raise CommandError(
            "the key must be selected by one option",
            "give --id or --label, as listed by `hsmd key candidates`, or --digest, or its --certificate alone",
            Exit.USAGE,
        )
    request = KeyAdopt(
        name=name,
        purposes=purpose,
        token=token,
        cka_id=cka_id.replace(":", "").lower(),
        cka_label=cka_label,
        key_digest=digest.replace(":", "").lower(),
        certificate=certificate_text(certificate) if certificate else "",
        accept_unsafe=accept_unsafe,
        owner=owner,
    )
    with session.output.working("searching the token for the key"):
        info = session.ask(request, KeyInfo, timeout_s=SLOW_TIMEOUT_S)
    session.output.show(info, lambda: describe(info))
