"""`hsmd key list`: list the keys of a daemon."""

from __future__ import annotations

from hsmd.cli.base.commands import command
from hsmd.cli.base.connection import Session
from hsmd.cli.base.output import table, when
from hsmd.cli.base.paging import keys_of
from hsmd.cli.key.options import app
from hsmd.protocol.messages import (
    KeyInfo,
)


@command(app, "list", example="hsmd key list\nhsmd key list --json | jq -r '.keys[].name'")
def list_keys(session: Session) -> None:
    """List the keys of a daemon.

    Operators and auditors see all keys; a front end sees the keys that it has a grant for.
    """
    keys = keys_of(session)
    rows = [
        (key.name, key.key_type, _grantable(key), key.token, when(key.certificate_not_after)) for key in keys
    ]
    session.output.show(
        {"keys": keys}, lambda: table(("NAME", "TYPE", "PURPOSES", "TOKEN", "CERTIFICATE UNTIL"), rows)
    )


def _grantable(key: KeyInfo) -> str:
    """The purposes of the key that can be granted to clients."""
    return ", ".join(purpose for purpose in key.purposes if not purpose.startswith("x509-"))
