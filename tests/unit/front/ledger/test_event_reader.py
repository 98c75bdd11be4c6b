"""The reader of events: how many reads of the store it has at a time, whatever its callers do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from hsmd.daemon.front.access.credentials import KeyCredential
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.ledger.event_reader import READS, EventReader
from hsmd.daemon.store import EventPage, Gap
from hsmd.protocol import messages
from hsmd.protocol.cursor import Cursor
from hsmd.protocol.roles import Role
from tests.support.polling import eventually


class Cache:
    """A snapshot cache whose store answers when the test lets it; `running` are the reads that are in the store."""

    snapshot = SimpleNamespace(client_row=lambda identity: 1)

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.released = threading.Event()
        self._lock = threading.Lock()

    async def read(self, action: Callable[[Any], Any]) -> Any:
        return await asyncio.to_thread(self._read)

    def _read(self) -> EventPage:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.released.wait(20)
        with self._lock:
            self.running -= 1
        return EventPage((), Cursor("5f3a9c1e", 1), Gap.NONE, False)


def identity(client: str) -> Identity:
    return Identity(client, frozenset({Role.FRONT_END}), KeyCredential("F"))


async def test_a_read_counts_until_it_ends_although_its_caller_has_gone() -> None:
    """Otherwise requests that are cancelled, or follow from elsewhere again and again, would take up all threads."""
    cache = Cache()
    reader = EventReader(cache)  # type: ignore[arg-type]

    def ask(client: str) -> asyncio.Task[messages.EventPage]:
        return asyncio.create_task(reader.page(identity(client), "", 100))

    waiting, asked = ask("c"), [ask(client) for client in "abab"]
    try:
        await eventually(lambda: cache.running == READS)
        for _ in range(5):
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            asked = [ask(client) for client in "abab"]
            for _ in range(20):
                await asyncio.sleep(0)
        assert cache.running == cache.most == READS
    finally:
        cache.released.set()
    await asyncio.gather(waiting, *asked)
    assert cache.most == READS
    assert not reader._turns
