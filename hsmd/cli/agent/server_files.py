"""The units that `hsmd agent install systemd` writes, and the steps that remain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hsmd.cli.base import server_list, systemd
from hsmd.cli.base.files import PUBLIC
from hsmd.cli.base.output import Output
from hsmd.cli.base.system_users import system_user
from hsmd.system import atomic_file
from hsmd.system.directories import make_shared


@dataclass(frozen=True, slots=True)
class Installed:
    """A file and its content; `path` as the running system sees it."""

    path: Path
    content: str


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


def install(
    output: Output, files: Sequence[Installed], steps: Sequence[str], root: Path, *, only_print: bool
) -> None:
    """Write the files below `root`, or print them, and print the remaining steps."""
    document = {
        "files": [{"path": str(file.path), "content": file.content} for file in files],
        "written": not only_print,
    }
    if not only_print:
        for file in files:
            target = _below(root, file)
            make_shared(target.parent)
            atomic_file.replace(target, file.content, PUBLIC)
    output.show(
        document,
        lambda: "\n".join(_lines(files, root, only_print)),
        hints="\n".join(["", "Next:", *(f"  {step}" for step in steps)]),
    )


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


def _below(root: Path, file: Installed) -> Path:
    return root / file.path.relative_to("/")


def _lines(files: Sequence[Installed], root: Path, only_print: bool) -> list[str]:
    if not only_print:
        return [f"Wrote {_below(root, file)}" for file in files]
    return [line for file in files for line in (f"# ---- {file.path}", *file.content.splitlines(), "")]
