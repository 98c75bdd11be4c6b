"""Reading events for clients: what their roles and their row allow."""

from __future__ import annotations

from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.store import EventPage, EventRecord, Gap, Readers
from hsmd.errors import Refused
from hsmd.protocol import messages
from hsmd.protocol.cursor import Cursor
from hsmd.system.pages import fitting


class EventReader:
    """Pages of events, read in the threads for clients (`system/client_threads.py`)."""

    def __init__(self, cache: SnapshotCache) -> None:
        self._cache = cache

    async def page(self, identity: Identity, since: str, limit: int) -> messages.EventPage:
        """Events that this client may read behind the cursor `since` ("": from the oldest on; `now`: none).

        Raises BadRequest for what is no cursor, Refused for a client that is no longer known, StoreFailure.
        """
        readers = self._readers(identity)
        if since == messages.NOW:
            end = str(await self.head())
            return messages.EventPage([], end, end)
        begin = Cursor.parse(since) if since else None
        return _result(await self._cache.read(lambda tx: tx.events.page(readers, begin, limit)), begin)

    async def head(self) -> Cursor:
        """The position behind the newest event of all."""
        return await self._cache.read(lambda tx: tx.events.head())

    def _readers(self, identity: Identity) -> Readers:
        """By roles, and by row: a client that gets the name of a removed one is another row, and inherits nothing."""
        row = self._cache.snapshot.identities.client_row(identity)
        if row is None:
            raise Refused(detail="the client is no longer known")
        return Readers(identity.roles, frozenset({row}))


def _result(page: EventPage, since: Cursor | None) -> messages.EventPage:
    events = [_event(event) for event in page.events]
    if since is not None and page.gap is Gap.NONE:
        begins = since
    elif page.events:
        begins = Cursor(page.cursor.epoch, page.events[0].cursor.number - 1)
    else:
        begins = page.cursor
    missed = "" if page.gap is Gap.NONE else page.gap.value
    fits, more = fitting(events, page.more)
    cursor = str(page.cursor) if len(fits) == len(events) else fits[-1].id
    return messages.EventPage(fits, str(begins), cursor, more, missed)


def _event(event: EventRecord) -> messages.Event:
    return messages.Event(str(event.cursor), event.kind, event.subject, event.at, event.payload)
