"""The units that `hsmd agent install systemd` writes, and the steps that remain."""

from __future__ import annotations

from pathlib import Path

from hsmd.cli.base import server_list, systemd
from hsmd.cli.base.output import Output
from hsmd.cli.base.system_users import system_user
from hsmd.cli.base.unit_files import Installed

SYSTEMD_STEPS: tuple[str, ...] = (
    "Then:                 systemctl daemon-reload && systemctl enable --now hsmd-agent",
    "Review it:            systemd-analyze security hsmd-agent",
)


def systemd_files(config: Path, user: str) -> list[Installed]:
    """The units of the agent and of what installs renewed certificates.

    Raises CommandError for an unknown user; ConfigurationError for an invalid agent.toml.
    """
    from hsmd.agent.config import KEEP, load

    settings = load(config)
    group = settings.socket.group
    system_user(user, "--user")
    units = {systemd.AGENT_UNIT: systemd.agent_unit(config, user, "" if group == KEEP else str(group))}
    units |= systemd.deploy_units(settings.state, config.parent / "keys", server_list.beside(config))
    return [Installed(systemd.DIRECTORY / name, text) for name, text in units.items()]


def remove(output: Output, root: Path) -> None:
    """Remove the units below `root`, and print the remaining steps. Raises CommandError for one that hsmd has not written."""
    removed = systemd.remove_units(systemd.AGENT_UNITS, root)
    output.show(
        {"removed": [str(path) for path in removed]},
        lambda: "\n".join(f"Removed {path}" for path in removed) or "There were no units of hsmd.",
        hints="\nNext: systemctl daemon-reload; what still runs ends with: systemctl stop hsmd-agent hsmd-agent-deploy.path\n"
        if removed
        else "",
    )
