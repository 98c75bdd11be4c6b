"""Two daemons side by side, floods at the one or the other, and what another client and the processes feel of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import asyncssh

from tests.support.daemon import AUDITOR, MAIL, WEB, Daemon, running_daemon
from tests.support.flood_kinds import KINDS
from tests.support.load import Load
from tests.support.polling import eventually

ROOT = Path(__file__).parents[2]
SETTLE_S = 30.0
"""How long after a flood what it took may stay taken: half frames and unread answers have ten seconds each."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a process holds."""

    descriptors: int
    threads: int
    memory: int
    """Resident, in bytes."""

    @classmethod
    def by(cls, pid: int) -> Held:
        proc = Path(f"/proc/{pid}")
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        return cls(
            len(os.listdir(proc / "fd")), int(status["Threads"]), int(status["VmRSS"].split()[0]) << 10
        )

    def __str__(self) -> str:
        return f"{self.descriptors} descriptors, {self.threads} threads, {self.memory / 2**20:.1f} MiB"

    def is_back_at(
        self, before: Held, *, descriptors: int = 2, threads: int = 2, memory: float = 0.1
    ) -> bool:
        """Whether no more is held than before, but for a few cached descriptors and threads and a part of the memory."""
        return (
            self.descriptors <= before.descriptors + descriptors
            and self.threads <= before.threads + threads
            and self.memory <= before.memory * (1 + memory)
        )


def open_files(pid: int) -> dict[str, int]:
    """How many descriptors of a process belong to each file, or kind of what is no file."""
    names = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            names.append(os.readlink(entry).partition(":[")[0])
    return dict(Counter(names))


@contextmanager
def flood(kind: str, daemon: Daemon, client: str, connections: int) -> Iterator[subprocess.Popen[str]]:
    """A flood of this kind (`flood_kinds.py`) that is under way."""
    host, port = daemon.address
    process = subprocess.Popen(
        [
            sys.executable, str(ROOT / "tests" / "support" / "flood_kinds.py"),
            kind, host, str(port), str(daemon.directory / client), client, str(connections),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready", f"the flood {kind} did not begin"
        yield process
    finally:
        process.kill()
        process.communicate()


async def latencies(daemon: Daemon, client: str, key: bytes, seconds: float) -> list[float]:
    """How long the operations of a client took that makes one after another for so long; failures count as their time-out."""
    async with Load(daemon, client, key, parallel=1, timeout_s=5.0) as load:
        began = time.monotonic()
        await eventually(lambda: time.monotonic() - began >= seconds, seconds * 3 + 20)
    return sorted(done.took_s for done in load.done)


async def log_in(daemon: Daemon, client: str) -> float:
    """Log in as another client once, and leave; return the seconds it took. Raises if it fails."""
    host, port = daemon.address
    began = time.monotonic()
    connection = await asyncssh.connect(
        host,
        port,
        username=client,
        client_keys=[daemon.keys[client]],
        known_hosts=([asyncssh.import_public_key(daemon.notice["host_key"])], [], []),
        config=None,
        agent_path=None,
        login_timeout=10,
    )
    took = time.monotonic() - began
    connection.abort()
    return took


async def settled(pid: int, before: Held, within_s: float = SETTLE_S, memory: float = 0.1) -> Held:
    """What a process holds once it is back at what it held before (see `is_back_at`), or after `within_s`."""
    with suppress(TimeoutError):
        await eventually(lambda: Held.by(pid).is_back_at(before, memory=memory), within_s)
    return Held.by(pid)


def percentile(values: list[float], part: float) -> float:
    """The value that this part of sorted values does not exceed."""
    return values[min(int(len(values) * part), len(values) - 1)]


class Site(Protocol):
    """Two servers of the same kind, of which one is watched while either is flooded."""

    kinds: Sequence[str]

    @property
    def pid(self) -> int:
        """The process that is watched."""

    def flood(
        self, kind: str, connections: int, *, elsewhere: bool
    ) -> AbstractContextManager[subprocess.Popen[str]]:
        """A flood that is under way, of the watched server or of the other one."""

    async def latencies(self, seconds: float) -> list[float]:
        """Sorted latencies of another client of the watched server."""

    async def log_in(self) -> float:
        """Have another client connect to the watched server; return the seconds it took. Raises if it fails."""


class DaemonSite:
    """Two daemons with twenty keys each, of which a front end floods one."""

    kinds = tuple(KINDS)
    KEYS = 20

    def __init__(self, directory: Path) -> None:
        self._stack = ExitStack()
        self.watched, self.other = (
            self._stack.enter_context(running_daemon(directory / name, workers=1))
            for name in ("watched", "other")
        )
        self.key = self.watched.add_key("mail", grant_to=(MAIL,))
        for daemon in (self.watched, self.other):
            for number in range(self.KEYS):
                daemon.add_key(f"web-{number}", grant_to=(WEB,))

    def __enter__(self) -> DaemonSite:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def pid(self) -> int:
        return self.watched.front_pid

    def flood(
        self, kind: str, connections: int, *, elsewhere: bool
    ) -> AbstractContextManager[subprocess.Popen[str]]:
        client = AUDITOR if kind == "audit-read" else WEB
        return flood(kind, self.other if elsewhere else self.watched, client, connections)

    async def latencies(self, seconds: float) -> list[float]:
        return await latencies(self.watched, MAIL, self.key, seconds)

    async def log_in(self) -> float:
        return await log_in(self.watched, MAIL)
