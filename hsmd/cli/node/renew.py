"""`hsmd node renew`: renew the certificate now."""

from __future__ import annotations

from typing import Annotated

import typer

from hsmd.cli.base.commands import command
from hsmd.cli.base.output import Output
from hsmd.cli.node.options import Config, app, document, end, files_of, load, protect, text


@command(app, "renew", example="hsmd node renew\nhsmd node renew --new-key")
def renew(
    output: Output,
    new_key: Annotated[bool, typer.Option("--new-key", help="For a new private key.")] = False,
    config: Config = None,
) -> None:
    """Renew the certificate now, reload the program, and make the handshakes. Works beside a running `hsmd node run`.

    Exit codes as for `hsmd node status`.
    """
    from hsmd.node import state
    from hsmd.node.daemons import Daemons
    from hsmd.node.passes import Node, Wish

    protect()
    settings = load(config)
    with output.working("renewing"), state.locked(settings.state), Daemons(settings.daemons) as daemons:
        done = Node(settings).make_pass(daemons, Wish(renew=True, new_key=new_key))
    kept, done = files_of(settings, done)
    output.show(document(settings, kept, done), lambda: text(settings, kept, done))
    end(settings, kept, done)
