"""`hsmd ca link`: certify the next key of a CA by the present one, for nodes that trust the present one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509

from hsmd.anchors.root_update import RootUpdate
from hsmd.cli.base import names
from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.errors import CommandError
from hsmd.cli.base.files import PUBLIC
from hsmd.cli.base.output import fields
from hsmd.cli.ca.options import AuthorityName, Term, app, seconds
from hsmd.protocol.messages import AuthorityShown, CaIssue, CaShow, IssuedCertificate
from hsmd.system import atomic_file


@command(app, "link", example="hsmd ca link root root-2 --out root-2.update")
def link(
    session: Session,
    authority: AuthorityName,
    successor: Annotated[
        str,
        typer.Argument(
            metavar="NEXT", help="Name of the next authority's key.", show_default=False, callback=names.check
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="File to write.")],
    term: Term = "",
) -> None:
    """Certify the key of the next authority by the present one, and write what nodes need to take it as an anchor.

    The next authority has a self-signed certificate of its own and keeps it. Its key is the one to which the present authority
    has committed: hsmd ca init NEXT --adopt, with the digest that `hsmd ca show AUTHORITY` names as successor key. The file is
    CMP's RootCaKeyUpdateContent (RFC 9810): the new certificate and the link. Nodes take it with `hsmd node anchor add`.
    """
    shown = session.ask(CaShow(successor), AuthorityShown)
    chain = x509.load_pem_x509_certificates(shown.chain.encode()) if shown.chain else []
    if len(chain) != 1 or chain[0].issuer != chain[0].subject:
        raise CommandError(
            f"{successor} has no self-signed certificate, so it can be no trust anchor",
            f"look at it: hsmd ca show {successor}",
        )
    wanted = CaIssue(
        authority=authority, profile="issuing", key=successor, term_s=seconds("--term", term), link=True
    )
    issued = session.ask(wanted, IssuedCertificate)
    by_old = x509.load_pem_x509_certificates(issued.chain.encode())[0]
    atomic_file.replace(out, RootUpdate(chain[0], by_old).encode(), PUBLIC)
    session.output.show(
        {"written": str(out), "serial": issued.certificate.serial, "key": issued.certificate.key_digest},
        lambda: fields(
            [
                ("written", str(out)),
                ("new key", f"{shown.authority.subject}, SHA-256 {issued.certificate.key_digest}"),
                (
                    "link",
                    f"serial {issued.certificate.serial}, until {issued.certificate.not_after:%Y-%m-%d %H:%M:%SZ}",
                ),
            ]
        ),
        hints=f"\nNext, on each node:  hsmd node anchor add {out.name}\n",
    )
