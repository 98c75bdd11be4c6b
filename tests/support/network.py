"""The dedicated network between front end and daemon, which tests can cut.

If the tests may create network namespaces, the daemon runs in one, connected by a veth pair, and a cut takes the link down.
Otherwise the connection goes over loopback through a relay, and a cut stops its forwarding.
"""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import threading
from contextlib import suppress
from typing import Protocol

from tests.support.processes import program

PORT = 7440
_CHUNK = 65_536


class Network(Protocol):
    """The network on which the daemon listens."""

    daemon_prefix: list[str]
    """Command prefix that runs a command in the daemon's network."""
    listen: str
    """ADDRESS:PORT the daemon listens on."""
    address: str
    """ADDRESS:PORT at which front ends reach it."""

    def cut(self) -> None:
        """Drop all traffic silently."""

    def restore(self) -> None:
        """Forward traffic again."""

    def close(self) -> None: ...


def make() -> Network:
    """A network in a namespace if permitted, otherwise with a relay."""
    return VethNetwork() if may_make_namespaces() else RelayNetwork()


def may_make_namespaces() -> bool:
    """Whether the tests have CAP_NET_ADMIN and CAP_SYS_ADMIN, and run outside of a chroot, where namespaces cannot be entered."""
    probe = f"hsmd-probe-{os.getpid()}"
    if os.geteuid() != 0 or _ip("netns", "add", probe).returncode != 0:
        return False
    enterable = _ip("-netns", probe, "link", "show").returncode == 0
    _ip("netns", "delete", probe)
    _remove_leftovers()
    return enterable


def _remove_leftovers() -> None:
    """Remove namespaces of killed test runs, and with them their links."""
    for name in _ip("netns", "list").stdout.split():
        _, is_ours, rest = name.partition("hsmd-")
        pid = rest.partition("-")[0]
        if is_ours and pid.isdecimal() and not os.path.exists(f"/proc/{pid}"):
            _ip("netns", "delete", name)


def free_port(host: str = "127.0.0.1") -> int:
    """A port that is currently unused."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _ip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program("ip"), *words], capture_output=True, text=True, timeout=20, check=False)


def _ip_or_fail(*words: str) -> None:
    done = _ip(*words)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


class Namespace:
    """A network namespace connected by a veth pair, with an unused /30 of RFC 2544's range."""

    _made = 0

    def __init__(self) -> None:
        Namespace._made += 1
        number = Namespace._made
        self.name = f"hsmd-{os.getpid()}-{number}"
        self.link = f"hd{os.getpid() % 1_000_000}n{number}"
        base = (os.getpid() * 8 + number) % 16_000 * 4
        self.inner, self.outer = (f"198.18.{base >> 8}.{(base & 255) + host}" for host in (1, 2))
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        _ip_or_fail("netns", "add", self.name)
        _ip_or_fail("link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        _ip_or_fail("address", "add", f"{self.outer}/30", "dev", self.link)
        _ip_or_fail("link", "set", self.link, "up")
        for words in (
            ["address", "add", f"{self.inner}/30", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
            ["link", "set", "lo", "up"],
        ):
            _ip_or_fail("-netns", self.name, *words)

    @property
    def prefix(self) -> list[str]:
        """Command prefix that runs a command in the namespace."""
        return [program("ip"), "netns", "exec", self.name]

    def set_link(self, state: str) -> None:
        """Set the far end of the link `up` or `down`: the near side keeps its routes, and packets are lost silently."""
        _ip_or_fail("-netns", self.name, "link", "set", "eth0", state)

    def close(self) -> None:
        _ip("link", "delete", self.link)
        _ip("netns", "delete", self.name)


class VethNetwork:
    """A network namespace for the daemon."""

    def __init__(self) -> None:
        self._namespace = Namespace()
        self.daemon_prefix = self._namespace.prefix
        self.listen = self.address = f"{self._namespace.inner}:{PORT}"

    def cut(self) -> None:
        self._namespace.set_link("down")

    def restore(self) -> None:
        self._namespace.set_link("up")

    def close(self) -> None:
        self._namespace.close()


class RelayNetwork:
    """Loopback, with a relay between front end and daemon, which while cut accepts and holds all data."""

    def __init__(self) -> None:
        self.daemon_prefix: list[str] = []
        self.listen = f"127.0.0.1:{free_port()}"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._passes = threading.Event()
        self._passes.set()
        self._open = True
        self._sockets: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._passes.clear()

    def restore(self) -> None:
        self._passes.set()

    def close(self) -> None:
        self._open = False
        self._passes.set()
        self._listener.close()
        for each in list(self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        host, _, port = self.listen.partition(":")
        while self._open:
            with suppress(OSError):
                near, _ = self._listener.accept()
                threading.Thread(target=self._relay, args=(near, (host, int(port))), daemon=True).start()

    def _relay(self, near: socket.socket, daemon: tuple[str, int]) -> None:
        self._passes.wait()
        with (
            near,
            suppress(OSError),
            socket.create_connection(daemon, timeout=5) as far,
            selectors.DefaultSelector() as ready,
        ):
            far.settimeout(None)
            pair = {near: far, far: near}
            self._sockets |= set(pair)
            for each in pair:
                ready.register(each, selectors.EVENT_READ)
            while self._forward(ready, pair):
                pass
            self._sockets -= set(pair)

    def _forward(self, ready: selectors.BaseSelector, pair: dict[socket.socket, socket.socket]) -> bool:
        for key, _ in ready.select():
            self._passes.wait()
            source = key.fileobj
            assert isinstance(source, socket.socket)
            data = source.recv(_CHUNK)
            if not data:
                return False
            pair[source].sendall(data)
        return True
