"""Default paths and users of an agent."""

from __future__ import annotations

import os
from pathlib import Path

from hsmd.cli.base.agent_toml import Local
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.invoking_user import invoking_user
from hsmd.system import host_users

SYSTEM_DIRECTORY = Path("/etc/hsmd")
SYSTEM_STATE = Path("/var/lib/hsmd-agent")
_SERVER_USERS = ("www-data", "nginx", "haproxy", "apache")


def directory() -> Path:
    """The directory of the agent's configuration: the system's for root, otherwise the user's own."""
    return SYSTEM_DIRECTORY if os.geteuid() == 0 else invoking_user().configuration


def socket_for(config: Path) -> Path:
    """The socket of an agent with this configuration file."""
    from hsmd.agent.config import DEFAULT_SOCKET

    return Path(DEFAULT_SOCKET) if config.parent == SYSTEM_DIRECTORY else config.parent / "agent.sock"


def state_for(config: Path) -> Path:
    """The state directory of an agent with this configuration file."""
    return SYSTEM_STATE if config.parent == SYSTEM_DIRECTORY else config.parent / "agent"


def choose(config: Path, socket: Path | None, allowed: tuple[str, ...]) -> Local:
    """Choose socket, state directory and users. Raises CommandError for an unknown user."""
    users = allowed or _default_users()
    for user in users:
        if user != "*" and host_users.uid_of(user) is None:
            raise CommandError(f"--allow: there is no user {user}", "correct the name", Exit.USAGE)
    return Local((socket or socket_for(config)).absolute(), state_for(config), users)


def _default_users() -> tuple[str, ...]:
    own = host_users.by_uid(os.geteuid()).name
    if os.geteuid() != 0:
        return (own,)
    return (own, *(user for user in _SERVER_USERS if host_users.uid_of(user) is not None))
