"""Followers: sessions that are sent each event that their client may read, as it happens.

One task for each session reads pages from the store and pushes them, the next page when the peer has read the one before. So a
peer that stops reading holds one page, delays no other, and is sent the rest from the store when it reads again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol

from hsmd import observe
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.ledger.event_reader import EventReader
from hsmd.daemon.store.audience import WATCHING
from hsmd.errors import HsmdError, Overloaded, StoreFailure
from hsmd.protocol import messages
from hsmd.protocol.cursor import Cursor
from hsmd.protocol.messages import missed_event, position_event

POLL_S = 1.0
"""How often the store is asked for events of other daemons, while there are followers."""
REST_S = 0.25
"""Shortest time between two readings of the store by one follower that has read everything."""
PAGE = 100
"""Events that are under way to one follower at a time."""
POSITION_S = 3600.0
POSITION_EVENTS = 10_000
"""A follower that is told nothing is told its position after this time, or when others were told so many events: its cursor
would expire otherwise, although it has missed nothing."""
MAX_OF_CLIENT = 8
MAX_FOLLOWERS = 128
"""Sessions of one client, and of all clients, that follow at a time."""
KEPT_PLACES = 32
"""Of them, those that only operators and auditors take: agents, which follow as long as they run, have another way to learn of
what concerns them."""
RETRY_S = 5.0
"""After this time a session that may not follow now may ask again."""

log = observe.logger()


class Peer(Protocol):
    """A session that follows."""

    identity: Identity

    def push(self, documents: Sequence[bytes]) -> asyncio.Future[None]:
        """Send events; the future is done when the peer has read them."""


class Followers:
    """The followers of this daemon, each with its task."""

    def __init__(
        self,
        reader: EventReader,
        *,
        knows: Callable[[Identity], bool],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`knows` tells whether an identity is still valid."""
        self._reader = reader
        self._knows = knows
        self._now = now
        self._tasks: dict[Peer, asyncio.Task[None]] = {}
        self._asking: dict[Peer, int] = {}
        """How many requests to follow each session has open: their places are taken."""
        self._news = asyncio.Event()

    def __len__(self) -> int:
        return len(self._tasks)

    # --- called by sessions ---

    def admit(self, peer: Peer) -> None:
        """Keep a place for a session that asks to follow, until `start`, `decline` or `stop`.

        Raises Overloaded if it may not follow, because too many others do, or have asked to.
        """
        others = [other.identity.client for other in {*self._tasks, *self._asking} if other is not peer]
        places = MAX_FOLLOWERS - (0 if peer.identity.roles & WATCHING else KEPT_PLACES)
        if len(others) >= places or others.count(peer.identity.client) >= MAX_OF_CLIENT:
            raise Overloaded("too many sessions follow events", retry_after_ms=round(RETRY_S * 1000))
        self._asking[peer] = self._asking.get(peer, 0) + 1

    def decline(self, peer: Peer) -> None:
        """A session that was admitted does not follow because of that request."""
        left = self._asking.pop(peer, 0) - 1
        if left > 0:
            self._asking[peer] = left

    def start(self, peer: Peer, cursor: str) -> None:
        """Push events after `cursor` to a session, in place of what it followed before."""
        self.decline(peer)
        self._end(peer)
        task = asyncio.get_running_loop().create_task(self._follow(peer, cursor))
        self._tasks[peer] = task
        task.add_done_callback(lambda done: self._ended(peer, done))

    def stop(self, peer: Peer) -> None:
        """A session has ended."""
        self._asking.pop(peer, None)
        self._end(peer)

    def _end(self, peer: Peer) -> None:
        task = self._tasks.pop(peer, None)
        if task is not None:
            task.cancel()

    def _ended(self, peer: Peer, task: asyncio.Task[None]) -> None:
        if self._tasks.get(peer) is task:
            del self._tasks[peer]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("events.follower_fault", client=peer.identity.client, exc_info=error)

    # --- news ---

    def wake(self) -> None:
        """There may be events that followers have not read."""
        self._news.set()
        self._news = asyncio.Event()

    async def poll(self) -> None:
        """Wake the followers when the ledger has grown; runs until cancelled."""
        seen: object = None
        while True:
            await asyncio.sleep(POLL_S)
            if not self._tasks:
                continue
            try:
                head = await self._reader.head()
            except StoreFailure:
                continue  # followers that fail to read try again by themselves
            if head != seen:
                seen = head
                self.wake()

    # --- one follower ---

    async def _follow(self, peer: Peer, cursor: str) -> None:
        """Ends with the session, and when its identity is no longer valid."""
        clock = asyncio.get_running_loop().time
        told, told_at = cursor, clock()
        while self._knows(peer.identity):
            news, read_at = self._news, clock()
            try:
                page = await self._reader.page(peer.identity, cursor, PAGE)
            except StoreFailure:
                await asyncio.sleep(POLL_S)
                continue
            except HsmdError as error:
                log.warning("events.follower_ended", client=peer.identity.client, error=error.text)
                return
            documents = self._documents(page)
            if not documents and _is_far(told, page.cursor, clock() - told_at):
                documents = [messages.encode_result(position_event(page.cursor, self._now()))]
            if documents:
                await peer.push(documents)
                told, told_at = page.cursor, clock()
            cursor = page.cursor
            if not page.more:
                await news.wait()
                await asyncio.sleep(max(0.0, read_at + REST_S - clock()))

    def _documents(self, page: messages.EventPage) -> list[bytes]:
        events = page.events
        if page.missed:
            events = [missed_event(page.begins, page.missed, self._now()), *events]
        return [messages.encode_result(event) for event in events]


def _is_far(told: str, reached: str, after_s: float) -> bool:
    """Whether a follower that was told a cursor so long ago is to be told the one that it has reached."""
    if told == reached:
        return False
    passed = Cursor.parse(reached).number - Cursor.parse(told).number
    return after_s >= POSITION_S or passed >= POSITION_EVENTS
