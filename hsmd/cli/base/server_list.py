"""The list of servers whose certificates are renewed: a file NAME.toml for each, beside the agent's configuration."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hsmd.cli.base.files import PUBLIC
from hsmd.cli.base.toml import quote
from hsmd.deployment.servers import SUFFIX, TIMEOUT_S, Server
from hsmd.system import atomic_file
from hsmd.system.directories import make_shared

DIRECTORY_NAME = "servers.d"


def beside(config: Path) -> Path:
    """The directory of the list for an agent with this configuration file."""
    return config.parent / DIRECTORY_NAME


def record(directory: Path, server: Server) -> Path:
    """List `server`, in place of what its name listed before; return its file. Raises OSError."""
    path = directory / f"{server.name}{SUFFIX}"
    make_shared(directory)
    atomic_file.replace(path, text(server), PUBLIC)
    return path


def remove(directory: Path, name: str) -> None:
    """List this server no more. Raises OSError."""
    (directory / f"{name}{SUFFIX}").unlink(missing_ok=True)


def text(server: Server) -> str:
    """The file of a server."""
    lines = [f"# Read by `hsmd agent deploy`, which installs renewed certificates for {server.name}."]
    lines.append(f"directories = {_list(map(str, server.directories))}")
    if server.keys:
        lines.append(f"keys = {_list(sorted(server.keys))}")
    if server.unit:
        lines.append(f"unit = {quote(server.unit)}")
    if server.command:
        lines.append(f"command = {_list(server.command)}")
    if server.timeout_s != TIMEOUT_S:
        lines.append(f"timeout_s = {server.timeout_s}")
    return "\n".join([*lines, ""])


def _list(texts: Iterable[str]) -> str:
    return f"[{', '.join(map(quote, texts))}]"
