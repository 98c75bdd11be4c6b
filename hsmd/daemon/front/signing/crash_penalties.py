"""Crash penalties: a client whose requests for a key crash token workers may not use that key for a while.

A request that crashes its worker is tried once more, alone (docs/architecture.md), so one bad request can cost two workers, and a
client that sends them on purpose could take the token from all others. Only a worker that ends by a signal that means a crash,
while it is using the key, counts: killed workers and tokens that hang do not. If the request is answered when it is tried again,
the crash does not count either, because some modules crash at random.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

CRASHES = 2
"""After this many crashes with a key within `MEMORY_S` the client is refused."""
FIRST_S = 60.0
"""The length of the first penalty; each further crash doubles it."""
LONGEST_S = 3_600.0
MEMORY_S = 3_600.0
"""A pair without a crash for this long since its last penalty is forgotten."""
MAX_PAIRS = 1_024
"""Pairs remembered; beyond that, the one with the oldest last crash is forgotten."""


@dataclass(slots=True)
class _Pair:
    crashes: int = 0
    until: float = 0.0
    last: float = 0.0


class CrashPenalties:
    """The (client, key digest) pairs with crashes. Times are monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.pairs: dict[tuple[str, bytes], _Pair] = {}
        """Usually empty; checked first for every request."""

    def crashed(self, client: str, key: bytes) -> float:
        """A worker crashed while it used this key for this client. Return for how many seconds the pair is refused now."""
        now = self._clock()
        pair = self.pairs.pop((client, key), None)
        if pair is None or now - max(pair.last, pair.until) >= MEMORY_S:
            pair = _Pair()
        pair.crashes += 1
        pair.last = now
        lasts_s = 0.0
        if pair.crashes >= CRASHES:
            lasts_s = min(FIRST_S * 2.0 ** min(pair.crashes - CRASHES, 16), LONGEST_S)
            pair.until = now + lasts_s
        while len(self.pairs) >= MAX_PAIRS:
            del self.pairs[next(iter(self.pairs))]
        self.pairs[client, key] = pair
        return lasts_s

    def acquitted(self, client: str, key: bytes) -> None:
        """Take back one crash that was counted: the client did not cause it."""
        pair = self.pairs.get((client, key))
        if pair is None:
            return
        pair.crashes -= 1
        if pair.crashes < CRASHES:
            pair.until = 0.0
        if not pair.crashes:
            del self.pairs[client, key]

    def refuses(self, client: str, key: bytes) -> bool:
        """Whether this client may not use this key now."""
        pair = self.pairs.get((client, key))
        return pair is not None and self._clock() < pair.until
