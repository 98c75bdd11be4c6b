"""What booting hosts needs of this machine, and an error that says what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

PROGRAMS = {"unshare": "util-linux", "nsenter": "util-linux", "setpriv": "util-linux", "ip": "iproute2"}
NAMESPACES = ("unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup")
_TRIAL = """
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
"""


class SetupError(AssertionError):
    """Hosts cannot be booted here. A failure, not a reason to skip: nothing else shows that the units start."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"hosts cannot be booted here: {reason}. The test bed needs root, namespaces, overlayfs and a writable cgroup2: "
            "a machine, a virtual machine, or a container with --privileged"
        )


def check() -> None:
    """Raise SetupError if hosts cannot be booted here."""
    if os.geteuid() != 0:
        raise SetupError("root is required")
    for name, package in PROGRAMS.items():
        if shutil.which(name) is None:
            raise SetupError(f"{name} is missing; on Debian: apt install {package}")
    if not Path("/lib/systemd/systemd").exists():
        raise SetupError("systemd is missing; on Debian: apt install systemd")
    tried = subprocess.run(
        [*NAMESPACES, "--fork", "--", "sh", "-ec", _TRIAL],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    if tried.returncode != 0:
        raise SetupError(tried.stderr.strip().replace("\n", "; "))


def cgroup_mount() -> Path:
    """Where the unified cgroup hierarchy is mounted. Raises SetupError if it is not, or cannot be written to."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            point = Path(before.split()[4])
            if os.access(point / "cgroup.procs", os.W_OK) and "ro" not in before.split()[5].split(","):
                return point
            raise SetupError(f"{point} is read-only")
    raise SetupError("no cgroup2 is mounted")
