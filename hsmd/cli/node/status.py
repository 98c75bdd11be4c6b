"""`hsmd node status`: what the node has, and how its last pass came out."""

from __future__ import annotations

from hsmd.cli.base.commands import command
from hsmd.cli.base.output import Output
from hsmd.cli.node.options import Config, app, document, end, files_of, load, text


@command(app, "status", example="hsmd node status\nhsmd node status --json | jq .level")
def status(output: Output, config: Config = None) -> None:
    """Show the node's certificate, anchors and handshakes as its last pass left them, and what is wrong.

    Exit code 0: all is well. 5: the program is served, but something needs attention. 4: there is no valid certificate, or a
    handshake of the last pass failed. `hsmd node check` makes the handshakes now.
    """
    from hsmd.node import state

    settings = load(config)
    kept, found = files_of(settings, state.read(settings.state))
    output.show(document(settings, kept, found), lambda: text(settings, kept, found))
    end(settings, kept, found)
