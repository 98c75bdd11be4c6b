"""`hsmd ca crl`: sign a revocation list."""

from __future__ import annotations

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.ca.options import AuthorityName, Out, app, give
from hsmd.protocol.messages import CaCrl, PemDocument


@command(app, "crl", example="hsmd ca crl root --out /var/www/ca/root.crl")
def crl(session: Session, authority: AuthorityName, out: Out = None) -> None:
    """Sign a new revocation list and print it.

    The daemon signs one by itself when two thirds of the time of the last one have passed; `hsmd ca show AUTHORITY --json`
    has the newest one.
    """
    signed = session.ask(CaCrl(authority=authority), PemDocument)
    give(session, signed, signed.pem, out)
