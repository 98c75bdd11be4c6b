"""`hsmd node check`: make the handshakes of a node now."""

from __future__ import annotations

from hsmd.anchors.problems import CertificatesInvalid
from hsmd.cli.base.commands import command
from hsmd.cli.base.errors import CheckFailed, CommandError, Exit
from hsmd.cli.base.output import Output, note, table
from hsmd.cli.node.options import Config, app, load, protect


@command(
    app,
    "check",
    example="hsmd node check\nhsmd node check --json | jq '.handshakes[] | select(.error != \"\")'",
)
def check(output: Output, config: Config = None) -> None:
    """Make every handshake that the configuration names, with the files that are installed now.

    A server is asked for its own certificate, through each of its doors; a client makes a handshake with each of its servers,
    with its own certificate and its own trust anchors. Nothing is resumed. Exit code 4 if one fails. `hsmd node status` shows
    the results, too.
    """
    from hsmd.node import documents, state
    from hsmd.node.passes import Node

    protect()
    settings = load(config)
    with state.locked(settings.state):
        try:
            outcomes = Node(settings).check()
        except (OSError, CertificatesInvalid) as error:
            fault = documents.fault_of(error, settings.files)
            raise CommandError(fault, "make the files anew: hsmd node renew", Exit.PROBLEMS) from None
    rows = [(each.probe, each.error or "ok") for each in outcomes]
    output.show({"handshakes": outcomes}, lambda: table(("HANDSHAKE", "RESULT"), rows))
    if not outcomes and not output.as_json:
        note(
            "There is nothing to try: add [[probe]] tables to the configuration, or there is no certificate yet."
        )
    if any(each.error for each in outcomes):
        raise CheckFailed
