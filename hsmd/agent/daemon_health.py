"""What the connected daemons say of their health: asked regularly, and soon when something points to a fault."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable

from hsmd import observe
from hsmd.client.connection import Connection
from hsmd.errors import ErrorCode, HsmdError, Overloaded, Unavailable
from hsmd.health.levels import FAILING
from hsmd.protocol.messages import Health, HealthRead

ASK_EVERY_S = 60.0
"""While the agent is not asked for its health: a thousand idle agents cost a daemon next to nothing."""
SOON_S, FAULT_EVERY_S = 1.0, 10.0
"""Intervals while handshakes fail: the first is doubled up to the second as long as nothing changes."""
FRESH_S = 2.0
"""An answer that is older is asked for again when the agent is asked for its health."""
JITTER = 2.0
"""The pause is longer by up to this many times it, so that agents that were started together do not ask together."""
TIMEOUT_S = 5.0
POINTS_TO_A_FAULT = frozenset(
    map(int, (ErrorCode.UNAVAILABLE, ErrorCode.TOKEN, ErrorCode.AUDIT, ErrorCode.STORE, ErrorCode.DEADLINE))
)
"""Errors of key operations after which daemons are asked at once."""

log = observe.logger()


class DaemonHealth:
    """`of(connection)` is the newest answer, None from a daemon of an earlier release or one that was not asked yet."""

    def __init__(
        self,
        connections: Callable[[], Iterable[Connection]],
        changed: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        asked: Callable[[Iterable[Connection]], None] = lambda connections: None,
    ) -> None:
        """`changed` is called whenever the health of a daemon is another one, `asked` before, with those that were asked."""
        self._connections = connections
        self._changed = changed
        self._asked = asked
        self._known: dict[Connection, Health | None] = {}
        self._due = asyncio.Event()
        self._connected = asyncio.Event()
        self._same = 0
        """How many answers in a row, asked for soon after one another, were the same as before."""
        self._clock = clock
        self._asked_at = clock()

    def of(self, connection: Connection) -> Health | None:
        """What a daemon said last, if it is connected."""
        return self._known.get(connection) if connection.available else None

    def ask_soon(self) -> None:
        """There is a new connection."""
        self._same = 0
        self._connected.set()

    def look(self) -> None:
        """The agent is asked for its health: what is not fresh is asked for, and told the next time."""
        if self._clock() - self._asked_at >= FRESH_S:
            self._due.set()

    def failed(self, code: int) -> None:
        """A key operation ended with this error."""
        if code in POINTS_TO_A_FAULT:
            self._due.set()

    async def follow(self) -> None:
        """Ask regularly; runs until cancelled."""
        while True:
            self._due.clear()
            self._connected.clear()
            before = self._known
            await self.ask()
            self._same = self._same + 1 if self._known == before else 0
            await self._pause()

    async def _pause(self) -> None:
        """Wait until daemons are asked again."""
        least_s, more_s = self._pauses()
        if await _set_within(self._connected, least_s) or not more_s:
            return
        if not await _set_within(self._due, more_s):
            self._same = 0

    def _pauses(self) -> tuple[float, float]:
        """How long only a new connection is a reason to ask again, and how much longer nothing but an error is."""
        least_s = min(SOON_S * 2 ** min(self._same, 10), FAULT_EVERY_S)
        if any(found is not None and found.level == FAILING for found in self._known.values()):
            return least_s, 0.0
        return least_s, ASK_EVERY_S * random.uniform(1, 1 + JITTER)

    async def ask(self) -> None:
        """Ask all daemons that are connected, at the same time."""
        self._asked_at = self._clock()
        connections = [each for each in self._connections() if each.available]
        answers = await asyncio.gather(*map(self._ask, connections))
        known = dict(zip(connections, answers, strict=True))
        self._asked(connections)
        if known != self._known:
            self._known = known
            self._changed()

    async def _ask(self, connection: Connection) -> Health | None:
        try:
            answer: Health = await connection.control(HealthRead(), timeout_s=TIMEOUT_S)
        except (Unavailable, Overloaded):
            return self._known.get(connection)
        except HsmdError as error:  # a release that does not know the request
            log.debug("health.not_told", daemon=str(connection.endpoint), error=error.text)
            return None
        return answer


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    """Whether the event was set in this time."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
