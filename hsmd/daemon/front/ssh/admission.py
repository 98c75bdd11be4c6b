"""Admission: how many peers may be in which state, decided before they can cost anything.

asyncssh has no limit on unauthenticated connections, authentication tries or channels; these are ours. Where there is not
room for all, nobody may crowd the others out: addresses share the room for logins, clients that for connections. Sources that
misbehave before they log in are not heard for a while (`source_penalties.py`).
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from hsmd.daemon.config.settings import LimitsConfig
from hsmd.daemon.front.ssh.source_penalties import SourcePenalties

CLIENT_SHARE = 4
"""One client may hold at most one connection in so many of all that are allowed ..."""
CLIENT_FLOOR = 8
"""... but always this many, as far as there is room."""


class Starting(Protocol):
    """A connection that is not authenticated yet."""

    peer: str

    def drop(self, reason: str) -> None:
        """End the connection at once."""


class Admission:
    """Counts connections by state and says yes or no. `draw(n)` is a random number below n; `clock` is monotonic."""

    def __init__(
        self,
        limits: LimitsConfig,
        *,
        draw: Callable[[int], int] = secrets.randbelow,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self.turned_away = 0
        """New connections that were closed at once."""
        self._draw = draw
        self._sources = SourcePenalties(clock)
        self.starting = 0
        self.connections = 0
        self._starting: dict[str, dict[Starting, None]] = {}
        self._per_client: Counter[str] = Counter()

    def may_start(self, newcomer: Starting) -> bool:
        """A new connection, not authenticated yet. If admitted, `started` or `stopped` ends that.

        When there is no room, the oldest one of the address that has most of them makes place, unless
        that is the newcomer's own. Where all are equal, chance decides: idle strangers from many addresses keep nobody out.
        """
        if not self._finds_room(newcomer.peer):
            self.turned_away += 1
            return False
        self._starting.setdefault(newcomer.peer, {})[newcomer] = None
        self.starting += 1
        return True

    def offended(self, connection: Starting, seconds: float) -> bool:
        """A connection ended before it was authenticated, by its peer's fault; True if that source is refused from now on."""
        return self._sources.offended(connection.peer, seconds)

    def stopped(self, connection: Starting) -> None:
        """A connection ended before it was authenticated; harmless for one that was not admitted."""
        crowd = self._starting.get(connection.peer, {})
        if connection in crowd:
            del crowd[connection]
            self.starting -= 1
            if not crowd:
                del self._starting[connection.peer]

    def started(self, connection: Starting, client: str) -> bool:
        """A connection was authenticated. If it may stay, `ended` tells its end."""
        self.stopped(connection)
        share = max(CLIENT_FLOOR, self.limits.connections // CLIENT_SHARE)
        if self.connections >= self.limits.connections or self._per_client[client] >= share:
            return False
        self.connections += 1
        self._per_client[client] += 1
        self._sources.let_in(connection.peer)
        return True

    def ended(self, client: str, peer: str) -> None:
        """An authenticated connection from the address `peer` ended."""
        self._sources.let_in(peer)
        self.connections -= 1
        self._per_client[client] -= 1
        if not self._per_client[client]:
            del self._per_client[client]

    def _finds_room(self, peer: str) -> bool:
        if self.connections >= self.limits.connections:
            return False
        if self._sources.refuses(peer, self.limits.penalty_exempt):
            return False
        return self.starting < self.limits.startups or self._make_room(peer)

    def _make_room(self, peer: str) -> bool:
        most = max(len(crowd) for crowd in self._starting.values())
        crowds = [crowd for crowd in self._starting.values() if len(crowd) == most]
        then_mine = len(self._starting.get(peer, ())) + 1
        if most < then_mine:
            return False
        chosen = self._draw(len(crowds) + (most == then_mine))
        if chosen == len(crowds):
            return False
        crowd = crowds[chosen]
        oldest = next(iter(crowd))
        self.stopped(oldest)
        oldest.drop("others want to log in")
        return True
