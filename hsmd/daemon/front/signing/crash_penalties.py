"""Crash penalties: a client whose uses of a key crash token workers may not use that key for a while.

A request that crashes the worker is tried once more, alone (decision 1); so one bad request can cost two workers, and a caller
who sends them on purpose could keep everybody from the token. Only ends by a signal that means a crash count, of a worker that
was using the key at that moment: somebody who kills workers, or a token that hangs, makes nobody guilty. Nor does a module that
crashes now and then by itself: a request that is answered when it is tried again is acquitted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

CRASHES = 2
"""So many workers may a client crash with a key, within `MEMORY_S`, before it is refused."""
FIRST_S = 60.0
"""How long the first penalty lasts; each further crash doubles it."""
LONGEST_S = 3_600.0
MEMORY_S = 3_600.0
"""A pair that has crashed nothing for so long since its last penalty begins anew."""
MAX_PAIRS = 1_024
"""Pairs remembered; the one whose last crash is longest ago gives way."""


@dataclass(slots=True)
class _Pair:
    crashes: int = 0
    until: float = 0.0
    last: float = 0.0


class CrashPenalties:
    """Which (client, key digest) pairs are refused. Times are monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.pairs: dict[tuple[str, bytes], _Pair] = {}
        """Empty as a rule: what the hot path looks at first."""

    def crashed(self, client: str, key: bytes) -> float:
        """A worker crashed while it used this key for this client. For how many seconds that is refused now; 0 for not yet."""
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
        """One of the crashes that were counted was not this client's doing."""
        pair = self.pairs.get((client, key))
        if pair is None:
            return
        pair.crashes -= 1
        if pair.crashes < CRASHES:
            pair.until = 0.0
        if not pair.crashes:
            del self.pairs[client, key]

    def refuses(self, client: str, key: bytes) -> bool:
        """Whether this client must do without this key for now."""
        pair = self.pairs.get((client, key))
        return pair is not None and self._clock() < pair.until
