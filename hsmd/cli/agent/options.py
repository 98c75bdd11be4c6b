"""What the commands of `hsmd agent` share: the group, options, and where things are unless somebody says otherwise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from hsmd.cli.agent import defaults
from hsmd.cli.base.commands import group

app = group(
    """The agent of a front end.

    It holds no key of a TLS server. It connects to the daemon that is pinned in its configuration, and passes on what TLS
    servers on this host want signed.

    Set-up takes five steps: agent init; an operator lets it in; agent run; agent export KEY; agent install nginx --key KEY.
    When something does not work: agent check KEY."""
)

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="Configuration. Default: /etc/hsmd/agent.toml, or in ~/.config/hsmd for users.",
    ),
]
Socket = Annotated[
    Path | None,
    typer.Option("--socket", metavar="PATH", help="The agent's socket. Default: as its configuration says."),
]


def default_config() -> Path:
    return defaults.directory() / "agent.toml"


def default_keys(config: Path | None) -> Path:
    return (config.absolute().parent if config else defaults.directory()) / "keys"


def socket_of(given: Path | None, config: Path | None) -> Path:
    """Where the agent listens: as typed, as its configuration says, or where it is by default."""
    from hsmd.agent.config import load

    if given is not None:
        return given.absolute()
    file = (config or default_config()).absolute()
    if config is None and not os.access(file, os.R_OK):
        return defaults.socket_for(file)
    return load(file).socket.path
