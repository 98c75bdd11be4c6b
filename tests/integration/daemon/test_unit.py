"""The daemon under its systemd unit's limits: system calls, capabilities, no writable code, the PIN as a credential."""

from __future__ import annotations

import json
import os
import pwd
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsmd.cli.base import systemd
from hsmd.protocol.frames import Kind
from tests.support.daemon import WEB, Daemon
from tests.support.ssh_peer import ssh, wire
from tests.support.users import set_owners

RESTRICT = """#!{python} -P
import ctypes, errno, json, os, sys
import pyseccomp
libc = ctypes.CDLL(None, use_errno=True)
os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
for capability in range(64):
    if os.geteuid() == 0 and capability not in {capabilities}:
        libc.prctl(24, capability, 0, 0, 0)
libc.prctl(38, 1, 0, 0, 0)
libc.prctl(65, 1, 0, 0, 0)
filter = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
for name in json.loads({allowed!r}):
    try:
        filter.add_rule(pyseccomp.ALLOW, name)
    except OSError:
        pass
filter.load()
os.execv({python!r}, [{python!r}, *sys.argv[1:]])
"""
"""Apply the unit's limits as systemd does: PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_SET_MDWE, seccomp; then run Python."""
CAPABILITIES = {"CAP_KILL": 5, "CAP_SETGID": 6, "CAP_SETUID": 7}


def members(group: str) -> set[str]:
    """The system calls of a group like @system-service."""
    done = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager", group], capture_output=True, text=True, check=True
    )
    found: set[str] = set()
    for line in done.stdout.splitlines()[1:]:
        name = line.strip()
        if name.startswith("@"):
            found |= members(name)
        elif name and not name.startswith("#"):
            found.add(name)
    return found


def allowed_by(unit: str) -> set[str]:
    allowed: set[str] = set()
    for value in re.findall(r"^SystemCallFilter=(.*)$", unit, re.MULTILINE):
        for group in value.removeprefix("~").split():
            named = members(group) if group.startswith("@") else {group}
            allowed = allowed - named if value.startswith("~") else allowed | named
    return allowed


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hsmd-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.mark.parametrize("source", ["credential", "file"])
async def test_the_daemon_runs_within_its_unit(
    directory: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """The PIN is a credential of systemd, or in a file of root's; only root can read either."""
    unit = systemd.daemon_unit(Path("/etc/hsmd/hsmd.toml"), Path("/var/lib/hsmd"), Path("/etc/hsmd/pin"))
    is_root = os.geteuid() == 0
    built = Daemon(directory / "daemon", users=("nobody", "daemon") if is_root else ("", ""))
    if is_root:
        set_owners(built, directory, pwd.getpwnam("nobody"), pwd.getpwnam("daemon"))
    credentials = directory / "credentials"
    credentials.mkdir(mode=0o700)
    built.pin_file.rename(credentials / "pin")
    os.chown(credentials / "pin", os.geteuid(), os.getegid())
    (credentials / "pin").chmod(0o400)
    if source == "credential":
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
        setting = 'pin_credential = "pin"'
    else:
        setting = f'pin_file = "{credentials}/pin"'
    built.config.write_text(re.sub(r'pin_file = ".*"', setting, built.config.read_text()))
    bounding = re.search(r"^CapabilityBoundingSet=(.*)$", unit, re.MULTILINE)
    assert bounding is not None
    wrapper = directory / "restricted-python"
    wrapper.write_text(
        RESTRICT.format(
            python=built.python,
            allowed=json.dumps(sorted(allowed_by(unit))),
            capabilities=sorted(CAPABILITIES[name] for name in bounding[1].split()),
        )
    )
    wrapper.chmod(0o755)
    built.python = str(wrapper)
    try:
        built.start()
        for pid in built.pids():
            assert Path(f"/proc/{pid}/status").read_text().partition("Seccomp:")[2].split()[0] == "2"
        key = built.add_key("www")
        async with await ssh(built, WEB) as connection:
            assert (await (await wire(connection)).use(1, key))[0] == Kind.RESULT
        assert built.reload() == "done"
        assert built.stop() == 0
    finally:
        built.end()
