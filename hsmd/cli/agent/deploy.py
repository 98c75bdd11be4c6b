"""`hsmd agent deploy`: install renewed certificates where TLS servers read them, and reload the servers."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsmd.cli.agent import defaults
from hsmd.cli.agent.options import app
from hsmd.cli.base import server_list
from hsmd.cli.base.commands import command
from hsmd.cli.base.errors import CheckFailed, CommandError, Exit
from hsmd.cli.base.name_patterns import shortened
from hsmd.cli.base.output import Output

if TYPE_CHECKING:
    from hsmd.deployment.deploy import Deployed


@command(
    app,
    "deploy",
    example="hsmd agent deploy\nhsmd agent deploy --keys /etc/hsmd/keys --servers /etc/hsmd/servers.d",
)
def deploy(
    output: Output,
    state: Annotated[
        Path | None,
        typer.Option(
            "--state",
            metavar="DIR",
            help="State directory of the agent. Default: /var/lib/hsmd-agent for root, otherwise ~/.config/hsmd/agent.",
        ),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(
            "--keys",
            metavar="DIR",
            help="Directory that `agent export` writes to. Default: /etc/hsmd/keys for root.",
        ),
    ] = None,
    servers: Annotated[
        Path | None,
        typer.Option(
            "--servers",
            metavar="DIR",
            help="List of servers, a file for each. Default: /etc/hsmd/servers.d for root.",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="Written for the agent: what servers have loaded. Default: /var/lib/hsmd-agent-deploy/installed.json for root.",
        ),
    ] = None,
) -> None:
    """Install the certificates that the agent has received, and reload the servers that use them.

    hsmd-agent-deploy.path runs this as root whenever a certificate was renewed. What the agent has written is not trusted: only
    keys whose references are already in the directories of root's list are renewed, and a certificate must belong to its key
    reference and be valid now. If a check fails, the files stay as they are and the exit code is 4; if a server cannot be
    reloaded, it is 1, and the next run reloads it.
    """
    from hsmd.deployment import deploy as deployment, installed

    base = defaults.directory()
    written = (state or defaults.state_for(base / "agent.toml")).absolute()
    places = deployment.Places(
        state=written,
        servers=(servers or base / server_list.DIRECTORY_NAME).absolute(),
        keys=(keys or base / "keys").absolute(),
        report=(report or installed.path_for(written)).absolute(),
    )
    try:
        done = deployment.deploy(places, datetime.now(UTC))
    except FileNotFoundError as error:
        raise CommandError(
            f"{error.filename}: there is no such directory",
            "start the agent, or name its --state",
            Exit.USAGE,
        ) from None
    output.show(done, lambda: "\n".join(_lines(done)))
    if done.not_reloaded:
        raise CheckFailed(Exit.FAILED)
    if done.refused or done.faults:
        raise CheckFailed


def _lines(done: Deployed) -> list[str]:
    lines = []
    if done.installed:
        lines.append(f"installed: {shortened(done.installed)}")
    lines += [f"not installed: {key}: {why}" for key, why in done.refused.items()]
    lines += [f"left out: {fault}" for fault in done.faults]
    lines += [f"reloaded: {name}" for name in done.reloaded]
    lines += [f"not reloaded: {name}: {why}" for name, why in done.not_reloaded.items()]
    if done.absent:
        lines.append(f"the agent has no certificate for: {shortened(done.absent)}")
    if done.installed and not done.reloaded and not done.not_reloaded:
        lines.append("no server was reloaded: none that runs is listed")
    return lines or [f"nothing to do: {done.unchanged:,} up to date" if done.unchanged else "nothing to do"]
