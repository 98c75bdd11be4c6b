"""The configuration, checked against this machine: its users exist, and the sandbox can be installed where it is required."""

from __future__ import annotations

import pwd
from pathlib import Path

from hsmd.daemon.config import reader
from hsmd.daemon.config.settings import Config
from hsmd.daemon.ipc import sandbox
from hsmd.errors import ConfigurationError


def load(path: Path) -> Config:
    """The configuration of a file. Raises ConfigurationError."""
    config = reader.load(path)
    users = {"front": config.users.front, "workers": config.users.workers}
    faults = [
        f"users.{role}: there is no user {name!r}"
        for role, name in users.items()
        if name and not _exists(name)
    ]
    if any(token.sandbox == "on" for token in config.tokens) and (reason := sandbox.missing()):
        faults.append(f"token.sandbox: {reason}")
    if faults:
        raise ConfigurationError(str(path), faults)
    return config


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True
