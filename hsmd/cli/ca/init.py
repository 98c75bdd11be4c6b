"""`hsmd ca init`: make a certificate authority."""

from __future__ import annotations

from typing import Annotated

import typer

from hsmd.algorithms import KeyType
from hsmd.cli.base import names
from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import SLOW_TIMEOUT_S, Session
from hsmd.cli.base.times import span_s
from hsmd.cli.ca.options import Out, app, describe, give
from hsmd.protocol.messages import AuthorityLimits, AuthorityMade, CaInit


@command(
    app,
    "init",
    example="hsmd ca init root --common-name 'Example CA 1' --dns example.com --for server --for client\n"
    "hsmd ca init root --common-name 'Example root 1' --dns example.com --below 2\n"
    "hsmd ca init sub --common-name 'Example sub 1' --dns example.com --outside --out sub.csr",
)
def init(
    session: Session,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the key.", show_default=False, callback=names.check)
    ],
    common_name: Annotated[str, typer.Option("--common-name", help="The authority's name in certificates.")],
    uses: Annotated[
        list[str],
        typer.Option(
            "--for",
            metavar="PROFILE",
            help="server, client or server-client; may be repeated. None: it certifies "
            "other authorities only.",
            show_default=False,
        ),
    ] = [],  # noqa: B006  read only
    dns: Annotated[
        list[str],
        typer.Option(
            "--dns",
            metavar="NAME",
            help="Certify this name and all below it; `*` is every name. May be repeated.",
        ),
    ] = [],  # noqa: B006
    ip: Annotated[
        list[str], typer.Option("--ip", metavar="NETWORK", help="Certify these addresses; may be repeated.")
    ] = [],  # noqa: B006
    email: Annotated[
        list[str],
        typer.Option(
            "--email",
            metavar="NAME",
            help="Certify a mailbox, those of a host, or with a dot first of all hosts below it.",
        ),
    ] = [],  # noqa: B006
    not_dns: Annotated[
        list[str],
        typer.Option(
            "--not-dns", metavar="NAME", help="Never certify this name or any below it; may be repeated."
        ),
    ] = [],  # noqa: B006
    not_ip: Annotated[
        list[str],
        typer.Option("--not-ip", metavar="NETWORK", help="Never certify these addresses; may be repeated."),
    ] = [],  # noqa: B006
    not_email: Annotated[
        list[str],
        typer.Option("--not-email", metavar="NAME", help="Never certify these mailboxes; may be repeated."),
    ] = [],  # noqa: B006
    subject: Annotated[
        list[str],
        typer.Option(
            "--subject",
            metavar="NAME",
            help="A common name that subjects may have besides permitted names, such as a "
            "user of a database; `*` is any that is no host. May be repeated.",
        ),
    ] = [],  # noqa: B006
    below: Annotated[
        int,
        typer.Option(
            "--below", min=0, max=8, help="Authorities that may follow; the next key counts as one."
        ),
    ] = 1,
    longest: Annotated[
        str, typer.Option("--longest", metavar="TIME", help="Longest term of a certificate.")
    ] = "90d",
    longest_authority: Annotated[
        str,
        typer.Option(
            "--longest-authority",
            metavar="TIME",
            help="Longest term of an authority's certificate, also its own.",
        ),
    ] = "3650d",
    list_at: Annotated[
        list[str],
        typer.Option(
            "--list-at",
            metavar="URL",
            help="Where its revocation list is fetched (http://); may be repeated.",
        ),
    ] = [],  # noqa: B006
    list_every: Annotated[
        str, typer.Option("--list-every", metavar="TIME", help="How long a revocation list is valid.")
    ] = "7d",
    key_type: Annotated[KeyType, typer.Option("--type", "-t", help="Type of the key.")] = KeyType.P256,
    token: Annotated[
        str,
        typer.Option(
            "--token",
            metavar="NAME",
            help="Name of the token, if the daemon has several.",
            show_default=False,
        ),
    ] = "",
    next_token: Annotated[
        str,
        typer.Option(
            "--next-token",
            metavar="NAME",
            help="Token for the next key: that of the upper authority if another one certifies this one. "
            "Default: another one, if there is one; with --adopt the same.",
            show_default=False,
        ),
    ] = "",
    adopt: Annotated[
        str,
        typer.Option(
            "--adopt",
            metavar="ID",
            help="Take a key that is in the token without purposes: its CKA_ID or the SHA-256 of its public key, in hex.",
            show_default=False,
        ),
    ] = "",
    outside: Annotated[
        bool, typer.Option("--outside", help="Print a request for its certificate instead of making one.")
    ] = False,
    out: Out = None,
) -> None:
    """Make a certificate authority: its key, the key that will replace it, and its certificate.

    What it may certify is fixed in the token and cannot be changed later. The certificate is written to --out.
    """
    limits = AuthorityLimits(
        profiles=uses, permitted_dns=dns, permitted_ip=ip, permitted_email=email, excluded_dns=not_dns,
        excluded_ip=not_ip, excluded_email=not_email, common_names=subject, path_length=below,
        leaf_s=span_s("--longest", longest), authority_s=span_s("--longest-authority", longest_authority),
    )  # fmt: skip
    request = CaInit(
        name=name, common_name=common_name, limits=limits, key_type=key_type.value, token=token, lists_at=list_at,
        list_s=span_s("--list-every", list_every), next_token=next_token, adopt=adopt, outside=outside,
    )  # fmt: skip
    with session.output.working(f"the token is generating two keys of type {key_type.value}"):
        made = session.ask(request, AuthorityMade, timeout_s=SLOW_TIMEOUT_S)
    if out is not None or outside:
        give(session, made, made.request or made.chain, out)
        return
    hint = f"Next: a certificate (hsmd ca issue {name} KEY --dns NAME); the root for its peers: hsmd cert export {name}"
    session.output.show(made, lambda: describe(made.authority), hints=hint)
