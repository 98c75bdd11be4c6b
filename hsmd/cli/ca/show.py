"""`hsmd ca show`: show an authority."""

from __future__ import annotations

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.ca.options import AuthorityName, app, describe
from hsmd.protocol.messages import AuthorityShown, CaShow


@command(
    app,
    "show",
    example="hsmd ca show root\nhsmd ca show root --json | jq -r .chain\nhsmd ca show root --json | jq -r .revocation_list",
)
def show(session: Session, authority: AuthorityName) -> None:
    """Show what an authority may certify, until when, and its next key; with --json also its chain and revocation list."""
    shown = session.ask(CaShow(authority=authority), AuthorityShown)
    session.output.show(shown, lambda: describe(shown.authority))
