"""Default paths, users and group of an agent."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path

from hsmd.cli.base.agent_toml import Local
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.invoking_user import invoking_user

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


def choose(config: Path, socket: Path | None, allowed: tuple[str, ...]) -> Local:
    """Choose socket, state directory, users and group. Raises CommandError for an unknown user."""
    users = allowed or _default_users()
    for user in users:
        if user != "*" and not _exists(user):
            raise CommandError(f"--allow: there is no user {user}", "correct the name", Exit.USAGE)
    state = SYSTEM_STATE if config.parent == SYSTEM_DIRECTORY else config.parent / "agent"
    return Local((socket or socket_for(config)).absolute(), state, users, _group(users))


def _default_users() -> tuple[str, ...]:
    own = pwd.getpwuid(os.geteuid()).pw_name
    servers = tuple(user for user in _SERVER_USERS if _exists(user)) if os.geteuid() == 0 else ()
    return (own, *servers)


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _group(users: tuple[str, ...]) -> str:
    """The group of the socket: that of the first server user; empty if only the agent's own user connects."""
    if os.geteuid() != 0:
        return ""
    for user in users:
        if user not in ("*", "root"):
            return grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name
    return ""
