"""`hsmd node run`: run the node."""

from __future__ import annotations

from hsmd.cli.base.commands import command
from hsmd.cli.base.output import Output
from hsmd.cli.node.options import Config, app, file_of


@command(app, "run", example="hsmd node run --config /etc/hsmd/node.toml")
def run(output: Output, config: Config = None) -> None:
    """Keep the files of the program up to date until SIGTERM or SIGINT.

    The certificate is renewed when about two thirds of its term have passed; anchors and revocation lists are asked for in
    between. While no daemon can be reached the files stay as they are. SIGHUP reads the configuration again, and makes a pass at
    once. The log goes to standard error, one JSON object per line.
    """
    from hsmd.node import service

    service.main(file_of(config))
