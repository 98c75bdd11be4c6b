"""`hsmd ca list`: list authorities, or what one has issued."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.output import table, when
from hsmd.cli.base.paging import authorities_of, issued_by
from hsmd.cli.ca.options import app, span
from hsmd.protocol.messages import AuthorityInfo, IssuedInfo

if TYPE_CHECKING:
    from rich.console import RenderableType


@command(app, "list", example="hsmd ca list\nhsmd ca list root\nhsmd ca list root --revoked --json")
def list_authorities(
    session: Session,
    authority: Annotated[
        str,
        typer.Argument(
            metavar="[AUTHORITY]", help="List the certificates that it has issued.", show_default=False
        ),
    ] = "",
    revoked: Annotated[bool, typer.Option("--revoked", help="Only those that are revoked.")] = False,
) -> None:
    """List the authorities, or the certificates that one of them has issued."""
    if not authority and revoked:
        raise CommandError("--revoked: give an authority", "see: hsmd ca list --help", Exit.USAGE)
    if not authority:
        found = authorities_of(session)
        session.output.show({"authorities": found}, lambda: _authorities(found))
        return
    issued = issued_by(session, authority, revoked=revoked)
    session.output.show({"certificates": issued}, lambda: _certificates(issued))


def _authorities(found: list[AuthorityInfo]) -> RenderableType:
    rows = [
        [
            each.name,
            each.subject,
            each.token,
            when(each.certificate_not_after),
            span(each.limits.leaf_s),
            when(each.list_ends),
        ]
        for each in found
    ]
    return table(
        ["NAME", "SUBJECT", "TOKEN", "CERTIFICATE UNTIL", "LONGEST TERM", "LIST UNTIL"], rows, whole=1
    )


def _certificates(issued: list[IssuedInfo]) -> RenderableType:
    rows = [
        [
            each.serial,
            each.profile,
            each.subject or ", ".join(each.names),
            each.key or each.client,
            when(each.not_after),
            _state(each),
        ]
        for each in issued
    ]
    return table(["SERIAL", "PROFILE", "NAME", "KEY OR NODE", "UNTIL", "STATE"], rows, whole=1)


def _state(certificate: IssuedInfo) -> str:
    if certificate.revoked_at is not None:
        return f"revoked {when(certificate.revoked_at)}: {certificate.reason}"
    return "" if certificate.signed else "not signed, or lost"
