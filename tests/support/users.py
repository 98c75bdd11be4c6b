"""A daemon whose processes run as different users, as docs/reference.md recommends, and the files these can access."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path

from tests.support.daemon import Daemon


def set_owners(built: Daemon, directory: Path, front: pwd.struct_passwd, workers: pwd.struct_passwd) -> None:
    """Set owners and modes as docs/reference.md recommends; other users must be able to traverse `directory`."""
    built.directory.chmod(0o711)
    built.config.chmod(0o644)
    audit = built.directory / "audit"
    audit.mkdir(mode=0o700)
    # SQLite writes its journal beside the database.
    give(front, built.directory, built.directory / "host_key", audit, built.directory / "store.sqlite")
    for each in (built.directory / "softhsm", *(built.directory / "softhsm").rglob("*")):
        give(workers, each)
    built.python = interpreter_for_all(directory, front.pw_uid)


def interpreter_for_all(directory: Path, uid: int) -> str:
    """An interpreter that other users can run: the tests' own, or the system's of the same version with the tests' packages."""
    with suppress(PermissionError):
        if (
            subprocess.run([sys.executable, "-c", ""], user=uid, capture_output=True, check=False).returncode
            == 0
        ):
            return sys.executable
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    subprocess.run([f"/usr/bin/{version}", "-m", "venv", "--without-pip", directory / "venv"], check=True)
    packages = directory / "venv" / "lib" / version / "site-packages"
    (packages / "ours.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return str(directory / "venv" / "bin" / "python")


def give(user: pwd.struct_passwd, *paths: Path) -> None:
    for path in paths:
        os.chown(path, user.pw_uid, user.pw_gid)


def user_of(pid: int) -> tuple[int, int]:
    """(uid, gid) of a process."""
    fields = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    return int(fields["Uid"].split()[0]), int(fields["Gid"].split()[0])


def can_read(uid: int, path: Path) -> bool:
    """Whether a user can read a file, or list a directory."""
    command = ["ls" if path.is_dir() else "cat", str(path)]
    return (
        subprocess.run(
            command, user=uid, group=uid, extra_groups=[], capture_output=True, check=False
        ).returncode
        == 0
    )
