"""Admission: how many peers may be in which state, decided before they can cost anything.

asyncssh has no limit on unauthenticated connections, authentication tries or channels; these are ours.
"""

from __future__ import annotations

from collections import Counter

from hsmd.daemon.config import LimitsConfig


class Admission:
    """Counts connections by state and says yes or no."""

    def __init__(self, limits: LimitsConfig) -> None:
        self.limits = limits
        self.starting = 0
        self.connections = 0
        self._per_client: Counter[str] = Counter()

    def may_start(self) -> bool:
        """A new connection, not authenticated yet. Counted if admitted; `started` or `stopped` ends that."""
        if self.starting >= self.limits.startups or self.connections >= self.limits.connections:
            return False
        self.starting += 1
        return True

    def stopped(self) -> None:
        """A connection ended before it was authenticated."""
        self.starting -= 1

    def started(self, client: str) -> None:
        """A connection was authenticated."""
        self.starting -= 1
        self.connections += 1
        self._per_client[client] += 1

    def ended(self, client: str) -> None:
        """An authenticated connection ended."""
        self.connections -= 1
        self._per_client[client] -= 1
        if not self._per_client[client]:
            del self._per_client[client]

    @property
    def clients(self) -> int:
        """How many different clients are connected."""
        return len(self._per_client)
