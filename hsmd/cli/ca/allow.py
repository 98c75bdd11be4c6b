"""`hsmd ca allow`: say what an authority issues to a node."""

from __future__ import annotations

from typing import Annotated

import typer

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.names import ClientName
from hsmd.cli.ca.options import AuthorityName, CommonName, Dns, Email, Ip, Term, app, seconds, span
from hsmd.protocol.messages import CaAllow, Done


@command(
    app,
    "allow",
    example="hsmd ca allow root web1 --dns www.example.com --term 24h\n"
    "hsmd ca allow root db1 --for server-client --dns db1.example.com --ip 192.0.2.7\n"
    "hsmd ca allow root alice --for client --common-name alice --dns alice.example.com",
)
def allow(
    session: Session,
    authority: AuthorityName,
    client: ClientName,
    use: Annotated[
        str, typer.Option("--for", metavar="PROFILE", help="server, client or server-client.")
    ] = "server",
    common_name: CommonName = "",
    dns: Dns = [],  # noqa: B006  read only
    ip: Ip = [],  # noqa: B006
    email: Email = [],  # noqa: B006
    term: Term = "",
) -> None:
    """Say which certificates a node gets from an authority, in place of what was said before.

    The node is a client with the role `node`. Names, profile and term must be within what the authority may certify; without
    --term it is the longest. The node asks with a key of its own, and cannot choose anything else.
    """
    wanted = CaAllow(
        authority=authority, client=client, profile=use, common_name=common_name, dns_names=dns, ip_addresses=ip,
        emails=email, term_s=seconds("--term", term),
    )  # fmt: skip
    done = session.ask(wanted, Done)
    names = (*([f"CN={common_name}"] if common_name else []), *dns, *ip, *email)
    length = f"for {span(wanted.term_s)}" if wanted.term_s else "for the longest term"
    text = f"{client} gets certificates of {authority} for {', '.join(names)}, each {length}."
    session.output.show(
        {"authority": authority, "client": client, "changed": done.changed},
        lambda: text if done.changed else f"{client} got these certificates of {authority} already.",
    )
