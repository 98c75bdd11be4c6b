"""The events of a daemon as a client sees them: in order, each once, over as many connections as it takes.

Events are taken as they are pushed. When the program is slower than the daemon, at most `MAX_WAITING` of them are kept; what
comes behind them is dropped, and asked for again from the last event that the program was given.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

import msgspec

from hsmd.client.channel import Channel
from hsmd.client.requests import control
from hsmd.errors import DeadlineExceeded, HsmdError, ProtocolError, Unavailable
from hsmd.protocol.messages import Event, EventsFollow, missed_event

MAX_WAITING = 256
ASK_S = 15.0
"""Time-out of the request to follow."""
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
"""The pause after a request to follow that failed doubles from the first to the longest, with full jitter."""


class EventStream:
    """One iteration over events, from the cursor `since` on. `channel` waits for a channel to a daemon."""

    def __init__(
        self,
        channel: Callable[[], Awaitable[Channel]],
        since: str,
        waiting: Callable[[HsmdError], None] | None,
    ) -> None:
        self._connected = channel
        self._cursor = since
        self._waiting = waiting or (lambda error: None)
        self._events: deque[Event] = deque()
        self._news = asyncio.Event()
        self._followed: Channel | None = None
        """The channel whose events are taken; None while there is none, or events of it were dropped."""
        self._failures = 0

    async def events(self) -> AsyncIterator[Event]:
        """Each event from the cursor on, without end. Raises HsmdError for what does not pass by itself."""
        while True:
            while self._events:
                event = self._events.popleft()
                self._cursor = event.id
                yield event
            if self._followed is None:
                await self._follow()
            else:
                self._news.clear()
                if not self._events:
                    await self._news.wait()

    # --- called by the connection ---

    def received(self, channel: Channel, document: bytes) -> None:
        """An event came. Raises ProtocolError if it is none."""
        try:
            event = msgspec.json.decode(document, type=Event)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise ProtocolError(
                "an event is not a JSON object with id, kind, subject, at and payload"
            ) from None
        if channel is not self._followed:
            return
        if len(self._events) < MAX_WAITING:
            self._events.append(event)
        else:
            self._followed = None
        self._news.set()

    def lost(self, channel: Channel, reason: str) -> None:
        """A channel has ended."""
        if channel is self._followed:
            self._followed = None
            self._waiting(Unavailable(f"connection lost: {reason}"))
            self._news.set()

    # --- asking ---

    async def _follow(self) -> None:
        """Ask for the events behind the cursor once; a failure that may pass makes the next attempt wait."""
        channel = await self._connected()

        def begun() -> None:
            self._followed = channel

        try:
            followed = await control(channel, EventsFollow(since=self._cursor), ASK_S, begun=begun)
        except HsmdError as error:
            if not (error.retryable or isinstance(error, DeadlineExceeded)):
                raise
            self._waiting(error)
            await self._pause(error.retry_after_ms / 1000)
            return
        self._failures = 0
        self._cursor = followed.cursor
        if followed.missed:
            self._events.appendleft(missed_event(followed.cursor, followed.missed, datetime.now(UTC)))

    async def _pause(self, at_least_s: float) -> None:
        longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**self._failures)
        self._failures = min(self._failures + 1, 16)
        await asyncio.sleep(max(at_least_s, random.uniform(longest / 2, longest)))
