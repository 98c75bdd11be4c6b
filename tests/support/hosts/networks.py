"""Networks between hosts: a bridge each, in a network namespace that ends with the test."""

from __future__ import annotations

import ipaddress
import subprocess
from pathlib import Path

from tests.support.hosts.requirements import SetupError
from tests.support.polling import wait_until


class Network:
    """A network with an address for programs of this machine. `prefix` makes a command line run in it."""

    def __init__(self, switch: Switch, bridge: str, own: str) -> None:
        self._switch = switch
        self.bridge = bridge
        self.own = ipaddress.ip_interface(own)
        switch.ip("link", "add", bridge, "type", "bridge")
        switch.ip("address", "add", own, "dev", bridge, *(("nodad",) if self.own.version == 6 else ()))
        switch.ip("link", "set", bridge, "up")

    @property
    def prefix(self) -> list[str]:
        """Runs a program of this machine with this network (and those of its bed) as its only one."""
        return self._switch.prefix

    def run(
        self, *command: str | Path, text: str = "", timeout_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of this machine in the network."""
        words = [*self.prefix, *map(str, command)]
        return subprocess.run(
            words,
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            errors="replace",
        )

    def plug(self, process: int, device: str, address: str) -> str:
        """Connect the network namespace of a process as `device`; return the name of the bridge's end."""
        end = self._switch.plug(self.bridge, process, device)
        interface = f"{address}/{self.own.network.prefixlen}"
        _ip_of(process, "address", "add", interface, "dev", device, *(("nodad",) if ":" in address else ()))
        _ip_of(process, "link", "set", device, "up")
        return end

    def set_link(self, end: str, state: str) -> None:
        """Take a host's cable out (`down`) or put it back (`up`); its own side keeps addresses and routes."""
        self._switch.ip("link", "set", end, state)


class Switch:
    """The network namespace of a bed's bridges, held by a process."""

    def __init__(self, process: int) -> None:
        self.process = process
        self._ends = 0
        own = Path("/proc/self/ns/net").readlink()
        wait_until(lambda: Path(f"/proc/{process}/ns/net").readlink() != own, "the namespace of the networks")
        self.ip("link", "set", "lo", "up")

    @property
    def prefix(self) -> list[str]:
        return ["nsenter", "--target", str(self.process), "--net"]

    def ip(self, *words: str) -> None:
        _ip_of(self.process, *words)

    def plug(self, bridge: str, process: int, device: str) -> str:
        self._ends += 1
        end = f"port{self._ends}"
        self.ip("link", "add", end, "type", "veth", "peer", "name", device, "netns", str(process))
        self.ip("link", "set", end, "master", bridge, "up")
        return end


def _ip_of(process: int, *words: str) -> None:
    command = ["nsenter", "--target", str(process), "--net", "ip", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode != 0:
        raise SetupError(f"ip {' '.join(words)}: {done.stderr.strip()}")
