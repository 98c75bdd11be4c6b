"""`hsmd node status`: what the node has, and how its last pass came out."""

from __future__ import annotations

from hsmd.anchors.problems import CertificatesInvalid
from hsmd.cli.base.commands import command
from hsmd.cli.base.output import Output
from hsmd.cli.node.options import Config, app, document, end, load, text


@command(app, "status", example="hsmd node status\nhsmd node status --json | jq .level")
def status(output: Output, config: Config = None) -> None:
    """Show the node's certificate, anchors and handshakes as its last pass left them, and what is wrong.

    Exit code 0: all is well. 5: the program is served, but something needs attention. 4: there is no valid certificate, or a
    handshake of the last pass failed. `hsmd node check` makes the handshakes now.
    """
    from hsmd.node import documents, state

    settings = load(config)
    found = state.read(settings.state)
    try:
        kept = documents.read(settings.files)
    except (OSError, CertificatesInvalid):
        kept = None  # the pass says what is damaged
    output.show(document(settings, kept, found), lambda: text(settings, kept, found))
    end(settings, kept, found)
