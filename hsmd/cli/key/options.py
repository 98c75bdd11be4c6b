"""What the commands of `hsmd key` share: the group and its common options."""

from __future__ import annotations

from typing import Annotated

import typer

from hsmd.cli.base.commands import group
from hsmd.cli.base.names import not_empty

app = group(
    """Keys in the token.

    A key is generated in the token (generate), existed there before (adopt), or is imported from a file on the token's own host
    (import). Its purposes are fixed at that time and stored with it in the token."""
)


Purposes = Annotated[
    list[str],
    typer.Option(
        "--purpose",
        "-p",
        metavar="PURPOSE",
        help="Permitted purpose, which cannot be changed later; may be repeated. One of tls-server, tls-client, "
        "tls13-server, tls12-server, tls12-rsa-premaster, sign-message, ...",
    ),
]


Token = Annotated[
    str,
    typer.Option(
        "--token", metavar="NAME", help="Name of the token, if the daemon has several.", show_default=False
    ),
]


Owner = Annotated[
    str,
    typer.Option(
        "--owner",
        metavar="CLIENT",
        help="Client to which the key belongs, with the role owner: it can always read all audit records about the key. "
        "Cannot be changed later.",
        show_default=False,
        callback=not_empty,
    ),
]
