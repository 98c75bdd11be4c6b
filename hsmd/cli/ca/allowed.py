"""`hsmd ca allowed`: list what an authority issues to nodes."""

from __future__ import annotations

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.output import table, when
from hsmd.cli.base.paging import permits_of
from hsmd.cli.ca.options import AuthorityName, app, span
from hsmd.protocol.messages import NodePermit


@command(app, "allowed", example="hsmd ca allowed root\nhsmd ca allowed root --json")
def allowed(session: Session, authority: AuthorityName) -> None:
    """List the nodes that get certificates from an authority, and which ones.

    LAST UNTIL is when the last certificate of a node ends: one that is in the past, or near, tells of a node that does not renew.
    """
    found = permits_of(session, authority)
    session.output.show(
        {"permits": found},
        lambda: table(
            ["CLIENT", "PROFILE", "NAMES", "TERM", "CERTIFICATES", "LAST UNTIL"], map(_row, found), whole=1
        ),
    )


def _row(permit: NodePermit) -> list[str]:
    names = [*([f"CN={permit.common_name}"] if permit.common_name else []), *permit.dns_names]
    return [
        permit.client,
        permit.profile,
        ", ".join((*names, *permit.ip_addresses, *permit.emails)),
        span(permit.term_s) if permit.term_s else "longest",
        str(permit.certificates),
        when(permit.last_ends),
    ]
