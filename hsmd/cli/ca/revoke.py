"""`hsmd ca revoke`: revoke a certificate."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.times import moment
from hsmd.cli.ca.options import AuthorityName, Out, Serial, app, give
from hsmd.protocol.messages import CaRevoke, CertificateRevoked


@command(app, "revoke", example="hsmd ca revoke root 5f0c0a --reason key-compromise > root.crl")
def revoke(
    session: Session,
    authority: AuthorityName,
    serial: Serial,
    reason: Annotated[
        str,
        typer.Option(
            "--reason",
            metavar="REASON",
            help="key-compromise, superseded, cessation-of-operation, affiliation-changed, "
            "privilege-withdrawn, ca-compromise or unspecified.",
        ),
    ] = "unspecified",
    unknown_until: Annotated[
        str,
        typer.Option(
            "--unknown-until",
            metavar="TIME",
            help="Revoke it although it is not in the list of what was issued; when it ends, for example 90d "
            "or 2027-03-01.",
            show_default=False,
        ),
    ] = "",
    out: Out = None,
) -> None:
    """Revoke a certificate and print a new revocation list, for the place where verifiers fetch it.

    It cannot be undone. Peers that do not look at revocation lists accept the certificate until it ends.

    After the database was restored, or the daemon's machine was taken over, there may be certificates that are not in the list:
    --unknown-until revokes them by serial number.
    """
    ends = moment("--unknown-until", unknown_until, datetime.now(UTC)) if unknown_until else None
    wanted = CaRevoke(authority=authority, serial=serial, reason=reason, unknown_until=ends)
    done = session.ask(wanted, CertificateRevoked)
    give(session, done, done.revocation_list, out)
