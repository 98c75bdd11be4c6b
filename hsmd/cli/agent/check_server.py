"""Checks that a running server was restarted since it was installed: that it has loaded the provider, and sees the socket."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from hsmd.cli.agent.check_results import Finding, bad, good
from hsmd.cli.agent.handshake import Actor
from hsmd.provider import MODULE_NAME

_SUBJECT = "server"
_TIMEOUT_S = 10.0


def check(unit: str, actor: Actor) -> list[Finding]:
    """The findings about the server of a systemd unit; none while it does not run, or without systemd."""
    pid = _main_pid(unit) if unit else 0
    return check_process(unit, Path("/proc") / str(pid), actor) if pid else []


def check_process(unit: str, process: Path, actor: Actor) -> list[Finding]:
    """The same for a directory of proc(5); none if it cannot be read."""
    try:
        maps, mounts = ((process / name).read_text(errors="replace") for name in ("maps", "mountinfo"))
    except OSError:
        return []
    restart = f"run: systemctl restart {unit.removesuffix('.service')} (a reload is not enough)"
    if f"/{MODULE_NAME}" not in maps:  # also one that an upgrade has replaced on disk
        return [bad(_SUBJECT, f"{unit} has not loaded hsmd's provider", restart)]
    for _, target in actor.binds:
        if f" {target} " not in mounts:
            return [bad(_SUBJECT, f"{unit} does not see {target}", restart)]
    return [good(_SUBJECT, f"{unit} has loaded hsmd's provider")]


def _main_pid(unit: str) -> int:
    systemctl = shutil.which("systemctl")
    if systemctl is None or not Path("/run/systemd/system").is_dir():  # sd_booted(3)
        return 0
    try:
        done = subprocess.run(
            [systemctl, "show", "--property=MainPID", "--value", unit],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    text = done.stdout.strip()
    return int(text) if text.isascii() and text.isdigit() else 0
