"""The systemd units of daemon, agent and node: the templates in `units/`, filled in for this host."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from hsmd.cli.base.errors import CommandError, Exit

DAEMON_UNIT = "hsmd.service"
AGENT_UNIT = "hsmd-agent.service"
DEPLOY_UNIT = "hsmd-agent-deploy.service"
DEPLOY_PATH = "hsmd-agent-deploy.path"
ARCHIVE_UNIT = "hsmd-archive.service"
ARCHIVE_TIMER = "hsmd-archive.timer"
NODE_UNIT = "hsmd-node.service"
DAEMON_UNITS = (DAEMON_UNIT, ARCHIVE_UNIT, ARCHIVE_TIMER)
AGENT_UNITS = (AGENT_UNIT, DEPLOY_UNIT, DEPLOY_PATH)
DIRECTORY = Path("/etc/systemd/system")
_WRITTEN_BY = "written by `hsmd "
"""In the first line of each unit."""


def daemon_unit(
    config: Path,
    state: Path,
    pin_file: Path | None,
    *,
    credential: str = "",
    written_by_module: Sequence[Path] = (),
) -> str:
    """The unit of the daemon, which writes below `state`; `pin_file` becomes a credential, by default of the file's name.

    Its PKCS#11 modules may write below the directories `written_by_module` too, if they exist when the daemon starts.
    """
    passed = (
        f"LoadCredential={credential or pin_file.name}:{_plain(pin_file)}"
        if pin_file
        else "# hsmd.toml names the file with the PIN, which the launcher opens for the workers."
    )
    writable = " ".join([_plain(state), *(f"-{_plain(path)}" for path in written_by_module)])
    return _template(DAEMON_UNIT).format(
        program=_program(), config=_plain(config), state=writable, credential=passed
    )


def archive_units(log: Path, to: Path, user: str, *, remove: bool) -> dict[str, str]:
    """Service and timer that copy sealed segments of the audit log every day, by name."""
    arguments = f"--log {_plain(log)} --to {_plain(to)}{' --remove' if remove else ''}"
    service = _template(ARCHIVE_UNIT).format(
        program=_program(), arguments=arguments, user=user, writable=f"{_plain(log)} {_plain(to)}"
    )
    return {ARCHIVE_UNIT: service, ARCHIVE_TIMER: _template(ARCHIVE_TIMER)}


def agent_unit(config: Path, user: str, group: str) -> str:
    """The unit of the agent, which runs as `user`; `group` owns its socket, empty for the user's own group."""
    groups = f"SupplementaryGroups={group}" if group else "# The socket belongs to the user's primary group."
    return _template(AGENT_UNIT).format(program=_program(), config=_plain(config), user=user, groups=groups)


def node_unit(config: Path, state: Path, files: Path) -> str:
    """The unit of a node, which runs as root and writes to the two directories."""
    return _template(NODE_UNIT).format(
        program=_program(), config=_plain(config), state=_plain(state), files=_plain(files)
    )


def deploy_units(state: Path, keys: Path, servers: Path) -> dict[str, str]:
    """Service and path unit that install renewed certificates, by name; the directories are those of `hsmd agent deploy`."""
    service = _template(DEPLOY_UNIT).format(
        program=_program(), state=_plain(state), keys=_plain(keys), servers=_plain(servers)
    )
    return {DEPLOY_UNIT: service, DEPLOY_PATH: _template(DEPLOY_PATH).format(state=_plain(state))}


def loaded_credentials(root: Path = Path("/")) -> dict[str, Path]:
    """The files of the credentials of the daemon's unit that is there, by name."""
    unit = _below(root, DAEMON_UNIT)
    text = unit.read_text("utf-8", "replace") if unit.is_file() else ""
    found = re.findall(r"^LoadCredential=([^:\s]+):(/\S+)$", text, re.MULTILINE)
    return {name: Path(path) for name, path in found}


def remove_units(names: Sequence[str], root: Path) -> list[Path]:
    """Remove those of these units that hsmd has written; return them. Raises CommandError for one that it has not, or OSError."""
    found = [path for path in (_below(root, name) for name in names) if os.path.lexists(path)]
    for path in found:
        if (
            path.is_symlink()
            or not path.is_file()
            or _WRITTEN_BY not in path.read_text("utf-8", "replace").partition("\n")[0]
        ):
            raise CommandError(f"{path} was not written by hsmd", "look at it, and remove it yourself")
    for path in found:
        path.unlink()
    return found


def _below(root: Path, name: str) -> Path:
    return root / (DIRECTORY / name).relative_to("/")


def _template(name: str) -> str:
    return (files("hsmd.cli") / "units" / name).read_text("utf-8")


def _program() -> str:
    """The hsmd command: beside this interpreter, on the path, or as a module."""
    beside = Path(sys.executable).with_name("hsmd")
    found = str(beside) if beside.is_file() else shutil.which("hsmd")
    return found or f"{sys.executable} -m hsmd.cli"


def _plain(path: Path) -> str:
    """`path` for a unit. Raises CommandError if it contains spaces, quotes or systemd specifiers."""
    text = str(path)
    if not text.isprintable() or any(character in text for character in " \t'\"\\%$:"):
        raise CommandError(
            f"{text!r} cannot be used in a systemd unit",
            "choose a path with only letters, digits, . _ - and /",
            Exit.USAGE,
        )
    return text
