"""Reading events for clients: what their roles and their row allow, in threads, a few at a time."""

from __future__ import annotations

import asyncio
from functools import partial

from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.store import EventPage, EventRecord, Gap, Readers
from hsmd.errors import Refused
from hsmd.protocol import messages
from hsmd.protocol.cursor import Cursor

READS = 2
"""Pages that are read at a time, of different clients: each takes a thread, and the interpreter's time from key operations."""


class EventReader:
    """Pages of events. One client's pages are read one after the other, so that it takes no more than its turn."""

    def __init__(self, cache: SnapshotCache) -> None:
        self._cache = cache
        self._reads = asyncio.Semaphore(READS)
        self._turns: dict[str, _Turn] = {}

    async def page(self, identity: Identity, since: str, limit: int) -> messages.EventPage:
        """Events that this client may read behind the cursor `since` ("": from the oldest on; `now`: none).

        Raises BadRequest for what is no cursor, Refused for a client that is no longer known, StoreFailure.
        """
        readers = self._readers(identity)
        if since == messages.NOW:
            end = str(await self.head())
            return messages.EventPage([], end, end)
        begin = Cursor.parse(since) if since else None
        turn = await self._turn(identity.client)
        reading = asyncio.ensure_future(self._cache.read(lambda tx: tx.events.page(readers, begin, limit)))
        reading.add_done_callback(partial(self._end_turn, identity.client, turn))
        return _result(await asyncio.shield(reading), begin)

    async def head(self) -> Cursor:
        """The position behind the newest event of all."""
        return await self._cache.read(lambda tx: tx.events.head())

    def _readers(self, identity: Identity) -> Readers:
        """By roles, and by row: a client that gets the name of a removed one is another row, and inherits nothing."""
        row = self._cache.snapshot.client_row(identity)
        if row is None:
            raise Refused(detail="the client is no longer known")
        return Readers(identity.roles, frozenset({row}))

    async def _turn(self, client: str) -> _Turn:
        """Wait for a client's turn. It ends with the reading, in a thread that goes on when the caller has gone."""
        turn = self._turns.setdefault(client, _Turn())
        turn.users += 1
        try:
            await turn.lock.acquire()
            try:
                await self._reads.acquire()
            except BaseException:
                turn.lock.release()
                raise
        except BaseException:
            self._leave(client, turn)
            raise
        return turn

    def _end_turn(self, client: str, turn: _Turn, reading: asyncio.Future[EventPage]) -> None:
        self._reads.release()
        turn.lock.release()
        self._leave(client, turn)
        if not reading.cancelled():
            reading.exception()  # retrieved, so that asyncio does not log it; a caller that still waits gets it

    def _leave(self, client: str, turn: _Turn) -> None:
        turn.users -= 1
        if not turn.users:
            del self._turns[client]


class _Turn:
    """One client's turn to read, and how many of its requests wait for it or have it."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


def _result(page: EventPage, since: Cursor | None) -> messages.EventPage:
    events = [_event(event) for event in page.events]
    if since is not None and page.gap is Gap.NONE:
        begins = since
    elif page.events:
        begins = Cursor(page.cursor.epoch, page.events[0].cursor.number - 1)
    else:
        begins = page.cursor
    missed = "" if page.gap is Gap.NONE else page.gap.value
    return messages.EventPage(events, str(begins), str(page.cursor), page.more, missed)


def _event(event: EventRecord) -> messages.Event:
    return messages.Event(str(event.cursor), event.kind, event.subject, event.at, event.payload)
