"""What the commands of `hsmd key` share: the group and its common options."""

from __future__ import annotations

from typing import Annotated

import typer

from hsmd.cli.base.commands import group

app = group(
    """Keys in the token.

    A key is made in the token (generate), was there before (adopt) or comes from a file on the token's own host (import). What
    it may ever be used for is fixed at that moment and kept beside it in the token."""
)


Purposes = Annotated[
    list[str],
    typer.Option(
        "--purpose",
        "-p",
        metavar="PURPOSE",
        help="What the key may ever be used for; may be repeated. tls-server, tls-client, tls13-server, tls12-server, "
        "tls12-rsa-premaster, sign-message, ...",
    ),
]


Token = Annotated[
    str,
    typer.Option(
        "--token", metavar="NAME", help="Which token, when the daemon has several.", show_default=False
    ),
]
