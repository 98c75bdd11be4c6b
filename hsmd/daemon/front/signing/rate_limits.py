"""Rate limits: how many operations a client may start in a second, and have open at a time, over all its connections."""

from __future__ import annotations

from dataclasses import dataclass

RETRY_OPEN_S = 0.050
"""After this time a client with too many open operations may try again."""
_MANY = 1_000
"""Clients that are remembered at most while they have no operation open."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """`rate`: operations in a second, and in a burst; `open_operations`: operations at a time."""

    rate: int
    open_operations: int


class Allowance:
    """What one client may still start (a token bucket), and what it has open."""

    __slots__ = ("_filled_at", "_left", "open", "spent")

    def __init__(self, left: float, now: float) -> None:
        self.open = 0
        self.spent = False
        """Whether an operation was refused since it was filled up."""
        self._left = left
        self._filled_at = now

    def fill(self, limits: RateLimit, now: float) -> None:
        """Add what has become available since the last call; call it once for each batch."""
        self._left = min(float(limits.rate), self._left + (now - self._filled_at) * limits.rate)
        self._filled_at = now
        self.spent = False

    def take(self, limits: RateLimit) -> float:
        """Start one operation and return 0, or return the seconds after which to try again."""
        if self.open >= limits.open_operations:
            self.spent = True
            return RETRY_OPEN_S
        if self._left < 1.0:
            self.spent = True
            return (1.0 - self._left) / limits.rate
        self._left -= 1.0
        self.open += 1
        return 0.0


class RateLimits:
    """The allowances of all clients."""

    def __init__(self, limits: RateLimit) -> None:
        self.limits = limits
        self._allowances: dict[str, Allowance] = {}

    def apply(self, limits: RateLimit) -> None:
        """Use these limits from now on."""
        self.limits = limits

    def of(self, client: str, now: float) -> Allowance:
        """The allowance of a client, filled up to `now` (monotonic)."""
        allowance = self._allowances.get(client)
        if allowance is None:
            if len(self._allowances) >= _MANY:
                self._allowances = {name: each for name, each in self._allowances.items() if each.open}
            allowance = self._allowances[client] = Allowance(float(self.limits.rate), now)
        allowance.fill(self.limits, now)
        return allowance
