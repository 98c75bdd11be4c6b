"""What the commands of `hsmd agent` share: the group, common options, and the paths that they default to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from hsmd.cli.agent import defaults
from hsmd.cli.base.commands import group

app = group(
    """The agent of a front end.

    It holds no keys of TLS servers. It connects to the daemon that is pinned in its configuration, and forwards requests for
    signatures from the TLS servers on this host.

    Set-up: 1. hsmd agent init; 2. an operator runs the commands that it prints; 3. hsmd agent run; 4. hsmd agent export KEY;
    5. hsmd agent install nginx --key KEY. To find problems: hsmd agent check KEY."""
)

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="Configuration file. Default: /etc/hsmd/agent.toml for root, otherwise ~/.config/hsmd/agent.toml.",
    ),
]
Socket = Annotated[
    Path | None,
    typer.Option("--socket", metavar="PATH", help="Socket of the agent. Default: from its configuration."),
]


def default_config() -> Path:
    return defaults.directory() / "agent.toml"


def default_keys(config: Path | None) -> Path:
    return (config.absolute().parent if config else defaults.directory()) / "keys"


def socket_of(given: Path | None, config: Path | None) -> Path:
    """The agent's socket: the option, otherwise from its configuration, otherwise the default."""
    from hsmd.agent.config import load

    if given is not None:
        return given.absolute()
    file = (config or default_config()).absolute()
    if config is None and not os.access(file, os.R_OK):
        return defaults.socket_for(file)
    return load(file).socket.path
