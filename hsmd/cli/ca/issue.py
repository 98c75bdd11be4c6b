"""`hsmd ca issue`: issue a certificate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hsmd.cli.base import input_files
from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.ca.options import (
    AuthorityName,
    CommonName,
    Dns,
    Email,
    Ip,
    Out,
    Term,
    app,
    give,
    seconds,
)
from hsmd.protocol.messages import CaIssue, IssuedCertificate

MAX_REQUEST_BYTES = 60_000


@command(
    app,
    "issue",
    example="hsmd ca issue root www --dns www.example.com\n"
    "hsmd ca issue root --request app.csr --for client --common-name alice --term 36h > app.pem\n"
    "hsmd ca issue root sub --for issuing",
)
def issue(
    session: Session,
    authority: AuthorityName,
    key: Annotated[
        str,
        typer.Argument(
            metavar="[KEY]",
            help="Name of a key that the daemon serves; it gets the chain.",
            show_default=False,
        ),
    ] = "",
    request: Annotated[
        Path | None,
        typer.Option(
            "--request",
            metavar="FILE",
            help="Certificate request (PKCS#10, PEM) instead of a key; - for standard input.",
        ),
    ] = None,
    use: Annotated[
        str, typer.Option("--for", metavar="PROFILE", help="server, client, server-client or issuing.")
    ] = "server",
    common_name: CommonName = "",
    dns: Dns = [],  # noqa: B006  read only
    ip: Ip = [],  # noqa: B006
    email: Email = [],  # noqa: B006
    term: Term = "",
    out: Out = None,
) -> None:
    """Issue a certificate, for a key that the daemon serves or for a certificate request, and print its chain.

    Without names those of the request are used. Names, profile and term must be within what the authority may certify.
    """
    if bool(key) == (request is not None):
        raise CommandError("give either KEY or --request FILE", "see: hsmd ca issue --help", Exit.USAGE)
    csr = "" if request is None else input_files.text(request, MAX_REQUEST_BYTES)
    wanted = CaIssue(
        authority=authority, profile=use, key=key, request=csr, common_name=common_name, dns_names=dns,
        ip_addresses=ip, emails=email, term_s=seconds("--term", term),
    )  # fmt: skip
    issued = session.ask(wanted, IssuedCertificate)
    give(session, issued, issued.chain, out)
