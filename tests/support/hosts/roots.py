"""Root file systems for hosts: this machine's own, or a Debian release from a cache on disk."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.hosts.requirements import SetupError

REPOSITORY = Path(__file__).resolve().parents[3]
DEBIAN_ROOT = REPOSITORY / "scripts" / "debian-root"
CACHE = Path(os.environ.get("HSMD_HOSTS_CACHE", "/var/tmp/hsmd-hosts"))
"""Holds one directory for each release with a set of packages. It can be removed at any time when no host runs."""

BARE = ("systemd", "systemd-sysv", "dbus", "iproute2", "procps", "sudo", "ca-certificates")
"""What an installed Debian server has beyond debootstrap's minimum, as far as our documents use it."""
HSMD = ("python3", "python3-venv", "libseccomp2")
PATIENCE_S = 900


@dataclass(frozen=True, slots=True)
class Root:
    """The files of a host: a directory that is never written to."""

    path: Path
    suite: str
    clean: bool = False
    """Whether services and state of the machine are removed from the host's view."""
    python_packages: Path | None = None
    """Third-party packages for hsmd that its Python can import, None if the host has no Python of that version."""


def machine() -> Root:
    """This machine's root file system. Its own services are not there."""
    return Root(Path("/"), "machine", clean=True, python_packages=_own_packages())


def debian(suite: str, *packages: str) -> Root:
    """A minimal Debian `suite` (bookworm, trixie) with `packages` and what they depend on. Needs the apt mirror the first time."""
    names = sorted({*BARE, *packages})
    digest = hashlib.sha256(" ".join(names).encode()).hexdigest()[:12]
    path = CACHE / f"{suite}-{digest}"
    with _made_once(path) as building:
        if building is not None:
            base = _minimal(suite)
            _run("cp", "--archive", "--reflink=auto", base, building)
            _install(building, names)
    return Root(path, suite)


def with_hsmd(suite: str, *packages: str) -> Root:
    """As `debian`, with a Python environment in /opt/hsmd that has all that hsmd depends on, for `Host.install_hsmd`."""
    base = debian(suite, *HSMD, *packages)
    wanted = _requirements()
    path = CACHE / f"{base.path.name}-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"
    with _made_once(path) as building:
        if building is not None:
            _run("cp", "--archive", "--reflink=auto", base.path, building)
            _inside(building, "python3", "-m", "venv", "/opt/hsmd")
            (building / "opt/hsmd/requirements").write_text(wanted)
            (building / "opt/hsmd/locked").write_text(_locked())
            _inside(
                building,
                "/opt/hsmd/bin/pip",
                "install",
                "--quiet",
                "--constraint",
                "/opt/hsmd/locked",
                "--requirement",
                "/opt/hsmd/requirements",
            )
    return Root(path, suite)


def _minimal(suite: str) -> Path:
    path = CACHE / suite
    with _made_once(path) as building:
        if building is not None:
            _run(DEBIAN_ROOT, "make", building, suite)
            (building / "srv/hsmd").mkdir(parents=True)  # where `scripts/debian-root run` works
    return path


def _install(root: Path, packages: list[str]) -> None:
    """Install Debian packages in a root file system, without starting services."""
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    _inside(root, "apt-get", "update", "--quiet", "--quiet")
    _inside(
        root,
        "env",
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "install",
        "--quiet",
        "--quiet",
        "--yes",
        "--no-install-recommends",
        *packages,
    )
    policy.unlink()


def _inside(root: Path, *command: str) -> None:
    _run(DEBIAN_ROOT, "run", root, *command)


def _run(*command: str | Path) -> None:
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        errors="replace",
    )
    if done.returncode != 0:
        words = " ".join(map(str, command))[:200]
        raise SetupError(f"{words} failed ({done.returncode}): {(done.stderr or done.stdout)[-1500:]}")


@contextmanager
def _made_once(path: Path) -> Iterator[Path | None]:
    """Yield a directory to fill, which becomes `path` if that succeeds; None if `path` exists. One process at a time."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            yield None
            return
        building = CACHE / f".{path.name}.new"
        shutil.rmtree(building, ignore_errors=True)
        yield building
        building.rename(path)


def _own_packages() -> Path:
    """The packages of the tests' own environment."""
    return (
        Path(sys.prefix)
        / "lib"
        / f"python{sys.version_info.major}.{sys.version_info.minor}"
        / "site-packages"
    )


def _requirements() -> str:
    """What hsmd and its extras for a key host depend on."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["token"], *extras["daemon"], *extras["postgresql"]]
    return "".join(f"{each}\n" for each in sorted(wanted) if not each.startswith("hsmd["))


def _locked() -> str:
    """The versions of requirements.lock, as constraints (which have no hashes)."""
    lines = (REPOSITORY / "requirements.lock").read_text().splitlines()
    return "".join(
        f"{line.split()[0]}\n" for line in lines if "==" in line and not line.startswith((" ", "#"))
    )
