"""Admission: limits on unauthenticated and authenticated connections, checked before a connection costs anything.

asyncssh has no such limits. When one is reached, sources (`sources.py`) share the unauthenticated connections, and clients the
authenticated ones, so that none of them can take all. Connections from penalised sources are closed at once
(`source_penalties.py`).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from hsmd.daemon.config.settings import LimitsConfig
from hsmd.daemon.front.ssh.login_turns import LoginTurns
from hsmd.daemon.front.ssh.source_penalties import SourcePenalties
from hsmd.daemon.front.ssh.sources import source_of

CLIENT_SHARE = 4
"""One client may hold at most one in this many of the allowed connections ..."""
CLIENT_FLOOR = 8
"""... but always this many, while the total allows it."""


LOGIN_GRACE_S = 1.0
"""Between equals, a connection that awaits its login this long may be dropped for another one. When many clients come back at
once, they would otherwise end each other's logins, and few would complete one. Sources that clients have logged in from need not
wait for others, who could keep all places by connections that are younger than this."""


class Starting(Protocol):
    """A connection that is not authenticated yet."""

    peer: str

    def drop(self, reason: str, *, blamed: bool = True) -> None:
        """End the connection at once; `blamed`: it counts against its source."""


class Admission:
    """Counts connections and decides on new ones. `draw(n)` is a random number below n; `clock` is monotonic."""

    def __init__(
        self,
        limits: LimitsConfig,
        *,
        draw: Callable[[int], int] = secrets.randbelow,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.limits = limits
        self._now = now
        self._seen: dict[str, datetime] = {}
        self.refused = 0
        """New connections that were closed at once."""
        self.turns = LoginTurns(asyncio.get_running_loop)
        """In which packets of connections that await their login are handled."""
        self._draw = draw
        self._clock = clock
        self._sources = SourcePenalties(clock)
        self.starting = 0
        self.connections = 0
        self._starting: dict[str, dict[Starting, float]] = {}
        """By source, with the time when each connection was made."""
        self._per_client: Counter[str] = Counter()

    def apply(self, limits: LimitsConfig) -> None:
        """Use these limits from now on."""
        self.limits = limits

    def may_start(self, newcomer: Starting) -> bool:
        """Decide on a new connection, not authenticated yet. If admitted, `started` or `stopped` must follow.

        When the limit is reached, the oldest connection of the source with the most of them is dropped, unless that is the
        newcomer's own source. Between the newcomer and equals that have had their time a random draw decides, so that idle
        connections cannot block logins.
        """
        if not self._admits(newcomer.peer):
            self.refused += 1
            return False
        self._starting.setdefault(source_of(newcomer.peer), {})[newcomer] = self._clock()
        self.starting += 1
        return True

    def offended(self, connection: Starting, seconds: float) -> bool:
        """A connection ended before it was authenticated, by its peer's fault; return whether its source is refused now."""
        return self._sources.offended(connection.peer, seconds)

    def stopped(self, connection: Starting) -> None:
        """A connection ended before it was authenticated; does nothing for one that was not admitted."""
        source = source_of(connection.peer)
        group = self._starting.get(source, {})
        if connection in group:
            del group[connection]
            self.starting -= 1
            if not group:
                del self._starting[source]

    def started(self, connection: Starting, client: str) -> bool:
        """A connection was authenticated; return whether it is admitted. If so, `ended` must follow."""
        self.stopped(connection)
        share = max(CLIENT_FLOOR, self.limits.connections // CLIENT_SHARE)
        if self.connections >= self.limits.connections or self._per_client[client] >= share:
            return False
        self.connections += 1
        self._per_client[client] += 1
        self._seen[client] = self._now()
        self._sources.trust(connection.peer)
        return True

    def activity(self, client: str) -> tuple[int, datetime | None]:
        """How many connections a client has, and when it last logged in or its last connection ended, since the start."""
        return self._per_client.get(client, 0), self._seen.get(client)

    def ended(self, client: str, peer: str) -> None:
        """An authenticated connection from the address `peer` ended."""
        self._sources.trust(peer)
        self.connections -= 1
        self._per_client[client] -= 1
        if not self._per_client[client]:
            del self._per_client[client]
            self._seen[client] = self._now()

    def _admits(self, peer: str) -> bool:
        if self.connections >= self.limits.connections:
            return False
        if self._sources.refuses(peer, self.limits.penalty_exempt):
            return False
        return self.starting < self.limits.startups or self._drop_another(peer)

    def _drop_another(self, peer: str) -> bool:
        most = max(len(group) for group in self._starting.values())
        groups = [group for group in self._starting.values() if len(group) == most]
        then_mine = len(self._starting.get(source_of(peer), ())) + 1
        if most < then_mine:
            return False
        first = False
        if most == then_mine:
            groups, first = self._replaceable(groups, source_of(peer))
        with_newcomer = most == then_mine and not first
        chosen = self._draw(len(groups) + with_newcomer) if groups else 0
        if chosen == len(groups):
            return False
        group = groups[chosen]
        oldest = next(iter(group))
        self.stopped(oldest)
        oldest.drop("others want to log in", blamed=most > 1)
        return True

    def _replaceable(
        self, equals: list[dict[Starting, float]], source: str
    ) -> tuple[list[dict[Starting, float]], bool]:
        """Which of those that have as many connections as this source may lose one to it, and whether it goes before them."""
        strangers = [each for each in equals if not self._sources.knows(source_of(next(iter(each)).peer))]
        first = bool(strangers) and self._sources.knows(source)
        if first:
            return strangers, True
        late = self._clock() - LOGIN_GRACE_S
        return [each for each in strangers or equals if next(iter(each.values())) <= late], False
