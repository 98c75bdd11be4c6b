"""Networks between hosts: a bridge each, in a network namespace that ends with the test."""

from __future__ import annotations

import ipaddress
import subprocess
from pathlib import Path

from tests.support.hosts.requirements import SetupError
from tests.support.polling import wait_until

BRIDGE = "bridge"


class Network:
    """A network with an address for programs of this machine, in a namespace of its own that `holder` keeps."""

    def __init__(self, holder: int, own: str) -> None:
        self._holder = holder
        self._ports = 0
        self.own = ipaddress.ip_interface(own)
        here = Path("/proc/self/ns/net").readlink()
        wait_until(lambda: Path(f"/proc/{holder}/ns/net").readlink() != here, "the network's namespace")
        self._ip("link", "set", "lo", "up")
        self._ip("link", "add", BRIDGE, "type", "bridge")
        self._ip("address", "add", own, "dev", BRIDGE, *(("nodad",) if self.own.version == 6 else ()))
        self._ip("link", "set", BRIDGE, "up")

    @property
    def prefix(self) -> list[str]:
        """Makes a command line of this machine run with this network as its only one."""
        return ["nsenter", "--target", str(self._holder), "--net"]

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
        self._ports += 1
        port = f"port{self._ports}"
        self._ip("link", "add", port, "type", "veth", "peer", "name", device, "netns", str(process))
        self._ip("link", "set", port, "master", BRIDGE, "up")
        interface = f"{address}/{self.own.network.prefixlen}"
        _ip_of(process, "address", "add", interface, "dev", device, *(("nodad",) if ":" in address else ()))
        _ip_of(process, "link", "set", device, "up")
        return port

    def set_link(self, port: str, state: str) -> None:
        """Take a host's cable out (`down`) or put it back (`up`); its own side keeps addresses and routes."""
        self._ip("link", "set", port, state)

    def _ip(self, *words: str) -> None:
        _ip_of(self._holder, *words)


def _ip_of(process: int, *words: str) -> None:
    command = ["nsenter", "--target", str(process), "--net", "ip", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode != 0:
        raise SetupError(f"ip {' '.join(words)}: {done.stderr.strip()}")
