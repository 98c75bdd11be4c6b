"""`hsmd ca disallow`: issue nothing more to a node."""

from __future__ import annotations

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.names import ClientName
from hsmd.cli.ca.options import AuthorityName, app
from hsmd.protocol.messages import CaDisallow, Done


@command(app, "disallow", example="hsmd ca disallow root web1")
def disallow(session: Session, authority: AuthorityName, client: ClientName) -> None:
    """Issue no further certificates to a node.

    Those that it has stay valid until they end: see `hsmd ca list AUTHORITY`, and revoke them with `hsmd ca revoke`.
    """
    done = session.ask(CaDisallow(authority=authority, client=client), Done)
    hint = f"Its certificates are valid until they end: see hsmd ca list {authority}, and hsmd ca revoke {authority} SERIAL"
    session.output.show(
        {"authority": authority, "client": client, "changed": done.changed},
        lambda: (
            f"{client} gets no more certificates of {authority}."
            if done.changed
            else f"{client} got no certificates of {authority}."
        ),
        hints=hint if done.changed else "",
    )
