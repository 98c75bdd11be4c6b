"""`hsmd key csr`: create a certificate request signed by a key."""

from __future__ import annotations

from typing import Annotated

import typer

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.names import KeyName
from hsmd.cli.key.options import app
from hsmd.protocol.messages import (
    KeyRequest,
    PemDocument,
)


@command(
    app,
    "csr",
    example="hsmd key csr www --dns www.example.org --dns example.org > www.csr\nopenssl req -in www.csr -noout -text -verify",
)
def csr(
    session: Session,
    name: KeyName,
    dns: Annotated[list[str], typer.Option("--dns", metavar="NAME", help="DNS name; may be repeated.")] = [],  # noqa: B006
    ip: Annotated[
        list[str], typer.Option("--ip", metavar="ADDRESS", help="IP address; may be repeated.")
    ] = [],  # noqa: B006
    common_name: Annotated[
        str, typer.Option("--common-name", help="Common name of the subject.", show_default=False)
    ] = "",
    organization: Annotated[
        str, typer.Option("--organization", help="Organization of the subject.", show_default=False)
    ] = "",
) -> None:
    """Create a certificate request (PKCS#10, RFC 2986) signed by the key.

    Send it to a certificate authority, then store the issued chain with `hsmd cert import`.
    """
    request = KeyRequest(
        name=name, common_name=common_name, dns_names=dns, ip_addresses=ip, organization=organization
    )
    session.output.document("pem", session.ask(request, PemDocument).pem)
