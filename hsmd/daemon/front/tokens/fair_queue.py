"""The fair queue: which is next among several that wait, so that each gets the same share of what it costs to serve them.

Start-time fair queueing (Goyal, Vin, Cheng 1996): serving somebody moves his next turn back by the cost. Who comes back after a
pause gets no credit for it, and whoever floods waits behind nobody but himself.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

_MANY = 1_000
"""Names that are remembered at most while they do not wait."""


class FairQueue(Generic[T]):
    """Those that wait, by name."""

    __slots__ = ("_clock", "_heap", "_next_start", "_order")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._next_start: dict[T, float] = {}  # of those that do not wait at the moment
        self._clock = 0.0
        self._order = 0

    def __len__(self) -> int:
        return len(self._heap)

    def enter(self, name: T) -> None:
        """Somebody who did not wait begins to."""
        start = self._next_start.get(name, 0.0)
        if start < self._clock:
            start = self._clock
        self._order += 1
        heapq.heappush(self._heap, (start, self._order, name))

    def next(self) -> T:
        """Whose turn it is. There must be somebody."""
        return self._heap[0][2]

    def served(self, cost: float, *, more: bool) -> None:
        """The next one was served at this cost; `more`: and goes on waiting for another turn."""
        start, _, name = self._heap[0]
        self._clock = start
        if more:
            self._order += 1
            heapq.heapreplace(self._heap, (start + cost, self._order, name))
            return
        heapq.heappop(self._heap)
        if len(self._next_start) >= _MANY:
            self._next_start = {each: when for each, when in self._next_start.items() if when > start}
        self._next_start[name] = start + cost
