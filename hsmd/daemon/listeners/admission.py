"""Admission: how many peers may be in which state, decided before they can cost anything.

asyncssh has no limit on unauthenticated connections, authentication tries or channels; these are ours. Where there is not
room for all, nobody may crowd the others out: addresses share the room for logins, clients that for connections.
"""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from hsmd.daemon.config import LimitsConfig

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
    """Counts connections by state and says yes or no."""

    def __init__(self, limits: LimitsConfig) -> None:
        self.limits = limits
        self.starting = 0
        self.connections = 0
        self._starting: dict[str, dict[Starting, None]] = {}
        self._per_client: Counter[str] = Counter()

    def may_start(self, newcomer: Starting) -> bool:
        """A new connection, not authenticated yet. If admitted, `started` or `stopped` ends that.

        When there is no room, the oldest one of the address that has most of them makes place, unless
        that is the newcomer's own.
        """
        if self.connections >= self.limits.connections:
            return False
        if self.starting >= self.limits.startups and not self._make_room(newcomer.peer):
            return False
        self._starting.setdefault(newcomer.peer, {})[newcomer] = None
        self.starting += 1
        return True

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
        return True

    def ended(self, client: str) -> None:
        """An authenticated connection ended."""
        self.connections -= 1
        self._per_client[client] -= 1
        if not self._per_client[client]:
            del self._per_client[client]

    def _make_room(self, peer: str) -> bool:
        crowd = max(self._starting.values(), key=len)
        if len(crowd) <= len(self._starting.get(peer, ())) + 1:
            return False
        oldest = next(iter(crowd))
        self.stopped(oldest)
        oldest.drop("others want to log in")
        return True
