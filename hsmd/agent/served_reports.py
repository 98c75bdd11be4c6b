"""Reports to the daemons which certificates the servers of this host present, as root's side says in a file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from hsmd.client.connection import Connection
from hsmd.deployment import installed
from hsmd.errors import BadRequest, HsmdError
from hsmd.protocol.messages import MAX_PAGE, CertificateReport, ServedCertificate

LOOK_EVERY_S = 2.0
ALL_AT_MOST_EVERY_S = 60.0
"""A daemon that is connected again is told everything again, but not more often."""
ASK_S = 10.0


class ServedReports:
    """Tells each daemon what is new to it. `connections` are those to the daemons of the configuration."""

    def __init__(
        self,
        path: Path,
        connections: Callable[[], Iterable[Connection]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._connections = connections
        self._clock = clock
        self._seen: tuple[int, int, int] | None = None
        self._served: dict[str, str] = {}
        self._told: dict[Connection, dict[str, str]] = {}
        self._told_all_at: dict[Connection, float] = {}
        self._connected: set[Connection] = set()

    def connected(self, connection: Connection) -> None:
        """A daemon is connected: it may be another one, or have lost what it was told."""
        self._connected.add(connection)

    async def keep(self) -> None:
        """Look for what is new; runs until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Read the file if it is another one, and tell the daemons what they have not been told."""
        seen = _signature(self._path)
        if seen != self._seen:
            self._seen = seen
            self._served = await asyncio.to_thread(_read, self._path)
        connections = list(self._connections())
        self._forget_others(connections)
        for connection in connections:
            if connection.available:
                with contextlib.suppress(HsmdError):
                    await self._tell(connection)

    def _forget_others(self, connections: list[Connection]) -> None:
        for known in (self._told, self._told_all_at):
            for connection in [each for each in known if each not in connections]:
                del known[connection]
        self._connected.intersection_update(connections)

    async def _tell(self, connection: Connection) -> None:
        now = self._clock()
        if (
            connection in self._connected
            and now - self._told_all_at.get(connection, -ALL_AT_MOST_EVERY_S) >= ALL_AT_MOST_EVERY_S
        ):
            self._connected.discard(connection)
            self._told_all_at[connection] = now
            self._told[connection] = {}
        told = self._told.setdefault(connection, {})
        news = [(key, leaf) for key, leaf in self._served.items() if told.get(key) != leaf]
        for at in range(0, len(news), MAX_PAGE):
            page = news[at : at + MAX_PAGE]
            request = CertificateReport(served=[ServedCertificate(key, leaf) for key, leaf in page])
            try:
                await connection.control(request, timeout_s=ASK_S)
            except BadRequest:
                told.update(news)  # a daemon of an earlier release, which does not want to know
                return
            told.update(page)


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(path: Path) -> dict[str, str]:
    return {each.key: each.leaf for each in installed.read(path).certificates}
