"""`hsmd agent run`: the agent itself."""

from __future__ import annotations

import typer

from hsmd.cli.agent.options import Config, app, default_config
from hsmd.cli.base.commands import command
from hsmd.cli.base.output import Output


@command(app, "run", example="hsmd agent run --config /etc/hsmd/agent.toml")
def run(output: Output, config: Config = None) -> None:
    """Run the agent until it is told to stop.

    It starts and stays without the daemon, answers "unavailable" at once meanwhile, and connects again by itself. The log goes
    to standard error, one JSON object per line.
    """
    from hsmd import agent

    code = agent.main((config or default_config()).absolute())
    if code:
        raise typer.Exit(code)
