"""`hsmd agent run`: run the agent."""

from __future__ import annotations

import typer

from hsmd.cli.agent.options import Config, app, default_config
from hsmd.cli.base.commands import command
from hsmd.cli.base.output import Output


@command(app, "run", example="hsmd agent run --config /etc/hsmd/agent.toml")
def run(output: Output, config: Config = None) -> None:
    """Run the agent until SIGTERM or SIGINT.

    The agent also starts while no daemon is reachable: it answers "unavailable" immediately and keeps trying to connect.
    SIGHUP reloads the configuration. The log goes to standard error, one JSON object per line.
    """
    from hsmd import agent

    code = agent.main((config or default_config()).absolute())
    if code:
        raise typer.Exit(code)
