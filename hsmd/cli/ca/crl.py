"""`hsmd ca crl`: sign a revocation list."""

from __future__ import annotations

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.ca.options import AuthorityName, Out, app, give
from hsmd.protocol.messages import CaCrl, PemDocument


@command(app, "crl", example="hsmd ca crl root --out /var/www/ca/root.crl")
def crl(session: Session, authority: AuthorityName, out: Out = None) -> None:
    """Sign a new revocation list and print it.

    Run it from a timer, before the last one ends: verifiers that want a list refuse everything without a current one.
    """
    signed = session.ask(CaCrl(authority=authority), PemDocument)
    give(session, signed, signed.pem, out)
