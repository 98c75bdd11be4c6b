"""`hsmd ca renew`: issue a certificate again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hsmd.cli.base.certificate_files import certificate_text
from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.ca.options import AuthorityName, Out, Term, app, give, seconds
from hsmd.protocol.messages import CaRenew, IssuedCertificate


@command(
    app,
    "renew",
    example="hsmd ca renew root 5f0c0a\nhsmd ca renew root --term 3650d --out root.pem\nhsmd ca renew sub --chain sub-chain.pem",
)
def renew(
    session: Session,
    authority: AuthorityName,
    serial: Annotated[
        str,
        typer.Argument(
            metavar="[SERIAL]",
            help="Serial number. Default: the authority's own certificate.",
            show_default=False,
        ),
    ] = "",
    chain: Annotated[
        Path | None,
        typer.Option(
            "--chain",
            metavar="FILE",
            help="Store this chain, which another authority has issued for this one.",
        ),
    ] = None,
    term: Term = "",
    out: Out = None,
) -> None:
    """Issue a certificate again, with the same key, profile and names, and print its chain.

    Without a serial number it is the authority's own certificate.
    """
    text = "" if chain is None else certificate_text(chain)
    wanted = CaRenew(authority=authority, serial=serial, chain=text, term_s=seconds("--term", term))
    issued = session.ask(wanted, IssuedCertificate)
    give(session, issued, issued.chain, out)
