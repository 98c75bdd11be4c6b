"""Rate limits: how many operations a client may start in a second, and have open at a time, over all its connections.

Pure but for the clock, which is given. A client beyond its share is told when to come back; nobody else notices.
"""

from __future__ import annotations

from dataclasses import dataclass

RETRY_OPEN_MS = 50
"""A client with too many operations open is served as fast as it can be; it may ask again after this time."""
_MANY = 1_000


@dataclass(frozen=True, slots=True)
class RateLimit:
    """`rate`: operations a second, with a second's worth at once; `open_operations`: at a time."""

    rate: int
    open_operations: int


class Allowance:
    """What one client has used of its share."""

    __slots__ = ("_allowance", "_filled_at", "open", "spent")

    def __init__(self, allowance: float, now: float) -> None:
        self.open = 0
        self.spent = False
        """Whether something was turned away since it was filled up."""
        self._allowance = allowance
        self._filled_at = now

    def fill(self, limits: RateLimit, now: float) -> None:
        """Add what has become available since the last time; once for each batch."""
        self._allowance = min(float(limits.rate), self._allowance + (now - self._filled_at) * limits.rate)
        self._filled_at = now
        self.spent = False

    def take(self, limits: RateLimit) -> int:
        """Start one operation: 0, or in how many milliseconds to try again."""
        if self.open >= limits.open_operations:
            self.spent = True
            return RETRY_OPEN_MS
        if self._allowance < 1.0:
            self.spent = True
            return max(1, round((1.0 - self._allowance) / limits.rate * 1000))
        self._allowance -= 1.0
        self.open += 1
        return 0

    def give_back(self) -> None:
        """An operation that was started has been answered."""
        self.open -= 1


class RateLimits:
    """The shares of all clients. `limits` may change at any time."""

    def __init__(self, limits: RateLimit) -> None:
        self.limits = limits
        self._shares: dict[str, Allowance] = {}

    def of(self, client: str, now: float) -> Allowance:
        """The share of a client, filled up to `now`."""
        share = self._shares.get(client)
        if share is None:
            if len(self._shares) >= _MANY:
                self._shares = {name: each for name, each in self._shares.items() if each.open}
            share = self._shares[client] = Allowance(float(self.limits.rate), now)
        share.fill(self.limits, now)
        return share
