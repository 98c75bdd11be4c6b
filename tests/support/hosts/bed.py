"""A test bed: hosts and networks that are made together and removed together."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.hosts import requirements
from tests.support.hosts.host import Host, end, remove_cgroup, start_keeper
from tests.support.hosts.networks import Network
from tests.support.hosts.roots import Root

_NAME = "hsmd-hosts"
_numbers = itertools.count()


class Bed:
    """Hosts and networks; see the package. SetupError if hosts cannot be booted here."""

    def __init__(self) -> None:
        requirements.check()
        self._cgroups = requirements.cgroup_mount()
        _remove_leftovers(self._cgroups)
        self.directory = Path(tempfile.mkdtemp(prefix=f"{_NAME}-{os.getpid()}-"))
        """For logs and whatever a test wants to keep until the end."""
        self.hosts: list[Host] = []
        self._holders: list[subprocess.Popen[str]] = []

    def network(self, own: str) -> Network:
        """A network in which this machine has the address `own`, with prefix length: 10.9.0.254/24."""
        holder = start_keeper(["unshare", "--net", "sleep", "infinity"], self.directory / "networks.log")
        self._holders.append(holder)
        return Network(holder.pid, own)

    def host(
        self,
        name: str,
        root: Root,
        networks: Mapping[Network, str],
        binds: Mapping[Path, str] | None = None,
        log: str = "",
    ) -> Host:
        """A host with its address in each network; `binds` are directories of this machine that it sees, read-only unless
        their place in the host ends in `:rw`. Its keeper's log is called `log`, by default as the host.
        """
        cgroup = self._cgroups / f"{_NAME}-{os.getpid()}-{next(_numbers)}"
        host = Host(name, root, cgroup, self.directory / f"{log or name}.log", binds or {})
        self.hosts.append(host)
        for network, address in networks.items():
            host.plug(network, address)
        return host

    def boot(self, *hosts: Host) -> None:
        """Boot these hosts, or all, at the same time; return when they are ready."""
        chosen = hosts or tuple(self.hosts)
        for host in chosen:
            host.switch_on()
        for host in chosen:
            host.wait()

    def close(self) -> None:
        """Remove everything."""
        while self.hosts:
            self.hosts.pop().close()
        while self._holders:
            end(self._holders.pop())
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _remove_leftovers(cgroups: Path) -> None:
    """Remove what tests left that were killed: the kernel has ended their processes."""
    for path in (*cgroups.glob(f"{_NAME}-*"), *Path(tempfile.gettempdir()).glob(f"{_NAME}-*")):
        owner = re.fullmatch(rf"{_NAME}-(\d+)-\w+", path.name)
        if owner is None or os.path.exists(f"/proc/{owner[1]}"):
            continue
        if path.parent == cgroups:
            with suppress(AssertionError):
                remove_cgroup(path, within_s=2.0)
        else:
            shutil.rmtree(path, ignore_errors=True)
