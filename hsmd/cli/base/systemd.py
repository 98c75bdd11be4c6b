"""The systemd units of daemon and agent: the templates in `units/`, filled in for this host."""

from __future__ import annotations

import shutil
import sys
from importlib.resources import files
from pathlib import Path

from hsmd.cli.base.errors import CommandError, Exit

DAEMON_UNIT = "hsmd.service"
AGENT_UNIT = "hsmd-agent.service"


def daemon_unit(config: Path, state: Path, pin_file: Path | None) -> str:
    """The unit of the daemon; `pin_file` becomes a credential with the name of the file."""
    credential = (
        f"LoadCredential={pin_file.name}:{_plain(pin_file)}"
        if pin_file
        else "# hsmd.toml names the file with the PIN."
    )
    return _template(DAEMON_UNIT).format(
        program=_program(), config=_plain(config), state=_plain(state), credential=credential
    )


def agent_unit(config: Path, user: str, group: str) -> str:
    """The unit of the agent, which runs as `user`; `group` owns its socket, empty for the user's own group."""
    groups = f"SupplementaryGroups={group}" if group else "# The socket belongs to the user's primary group."
    return _template(AGENT_UNIT).format(program=_program(), config=_plain(config), user=user, groups=groups)


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
