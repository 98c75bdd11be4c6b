"""`hsmd cert`: the certificate chains of keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hsmd.cli.base.certificate_files import certificate_text
from hsmd.cli.base.commands import command, group
from hsmd.cli.base.connection import Session
from hsmd.cli.base.files import PUBLIC
from hsmd.cli.base.key_details import describe
from hsmd.cli.base.names import KeyName
from hsmd.protocol.messages import (
    CertificateExport,
    CertificateImport,
    CertificateSelfSigned,
    KeyInfo,
    PemDocument,
)
from hsmd.system import atomic_file

app = group(
    """Certificates of keys.

    The daemon stores one chain for each key and sends it to front ends that have a grant for the key."""
)


@command(
    app, "import", example="hsmd cert import www fullchain.pem\ncat leaf.pem ca.pem | hsmd cert import www -"
)
def import_chain(
    session: Session,
    key: KeyName,
    chain: Annotated[
        Path, typer.Argument(metavar="CHAIN", help="PEM file, leaf first; - for standard input.")
    ],
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Store a chain that would be refused, such as an expired one; recorded in the audit log.",
        ),
    ] = False,
) -> None:
    """Store the certificate chain that a certificate authority issued for a key.

    The leaf comes first and must be for this key; the intermediate certificates follow. An existing chain is replaced. A chain
    with which handshakes would fail is refused (expired, not valid yet, an issuer missing or wrong, not for TLS servers, SHA-1),
    and so is a certificate that is older than the one that is stored.
    """
    info = session.ask(CertificateImport(key=key, chain=certificate_text(chain), force=force), KeyInfo)
    session.output.show(info, lambda: describe(info))


@command(app, "self-signed", example="hsmd cert self-signed www --dns www.example.org --days 30 > www.pem")
def self_signed(
    session: Session,
    key: KeyName,
    dns: Annotated[list[str], typer.Option("--dns", metavar="NAME", help="DNS name; may be repeated.")] = [],  # noqa: B006
    ip: Annotated[
        list[str], typer.Option("--ip", metavar="ADDRESS", help="IP address; may be repeated.")
    ] = [],  # noqa: B006
    days: Annotated[int, typer.Option("--days", min=1, max=3660, help="Days of validity.")] = 30,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a certificate that a CA has issued and that is valid.")
    ] = False,
) -> None:
    """Create, store and print a self-signed certificate, for tests.

    The certificate is signed by the key itself, in the token.
    """
    request = CertificateSelfSigned(key=key, dns_names=dns, ip_addresses=ip, days=days, force=force)
    session.output.document("pem", session.ask(request, PemDocument).pem)


@command(app, "export", example="hsmd cert export www > www.pem\nhsmd cert export www --out /etc/ssl/www.pem")
def export(
    session: Session,
    key: KeyName,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="File to write instead of printing."),
    ] = None,
) -> None:
    """Print the certificate chain that is stored for a key, or write it to a file."""
    pem = session.ask(CertificateExport(key=key), PemDocument).pem
    if out is None:
        session.output.document("pem", pem)
        return
    atomic_file.replace(out, pem, PUBLIC)
    session.output.show({"written": str(out)}, lambda: f"Wrote {out}.")
