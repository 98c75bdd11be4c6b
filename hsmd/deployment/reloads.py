"""Reloading servers: systemd units that are active, or the commands that root has listed, each within a time limit."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from hsmd.deployment.servers import Server

UNITS = ("nginx.service", "haproxy.service", "apache2.service", "httpd.service", "postgresql.service")
"""Units that are reloaded without being listed, if their environment names an OpenSSL configuration."""
_ASK_S = 15
_LONGEST_ERROR = 300


def unlisted(listed: Sequence[Server], directory: Path) -> list[Server]:
    """The servers that run with OPENSSL_CONF and are not listed: those that were set up by earlier releases, or by hand."""
    known = {_full(server.unit) for server in listed if server.unit}
    found = []
    for properties in _properties([unit for unit in UNITS if unit not in known]):
        unit = properties.get("Id", "")
        if "OPENSSL_CONF=" in properties.get("Environment", "") and unit in UNITS:
            found.append(Server(unit.removesuffix(".service"), (directory,), unit=unit))
    return found


def reload(server: Server) -> str:
    """Reload a server; return what went wrong, empty if nothing did. One that does not run needs no reload."""
    if server.command:
        return _run(server.command, server.timeout_s)
    if not server.unit or _state(server.unit) not in ("active", "reloading"):
        return ""
    return _run((_systemctl(), "reload", _full(server.unit)), server.timeout_s)


def _state(unit: str) -> str:
    found = _properties([_full(unit)])
    return found[0].get("ActiveState", "") if found else ""


def _properties(units: Sequence[str]) -> list[dict[str, str]]:
    """Name, state and environment of units; nothing without systemd."""
    if not units:
        return []
    try:
        shown = subprocess.run(
            [_systemctl(), "show", "--property=Id,ActiveState,Environment", "--", *units],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ASK_S,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    blocks = [block for block in shown.split("\n\n") if block.strip()]
    return [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in blocks]


def _run(command: Sequence[str], timeout_s: float) -> str:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except OSError as error:
        return f"{command[0]}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return f"{' '.join(command)}: not done after {timeout_s} s"
    if done.returncode == 0:
        return ""
    said = " ".join(done.stderr.split())[-_LONGEST_ERROR:]
    return f"{' '.join(command)}: exit code {done.returncode}" + (f": {said}" if said else "")


def _systemctl() -> str:
    return shutil.which("systemctl") or "/usr/bin/systemctl"


def _full(unit: str) -> str:
    return unit if "." in unit else f"{unit}.service"
