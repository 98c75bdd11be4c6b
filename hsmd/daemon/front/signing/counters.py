"""Counters: what was asked of which key by whom, how it ended and how long it took, as plain integers.

Every key operation costs one look-up and one addition here, and a place in a histogram if it reached a token. What
is shown to people and to Prometheus is read from these numbers when somebody asks. A name gets in here only once the client has
logged in and the store knows the key, so that nobody outside can make up series; beyond `most` they are counted together.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

BOUNDS_S = (
    0.00025,
    0.0005,
    0.001,
    0.002,
    0.004,
    0.008,
    0.016,
    0.032,
    0.064,
    0.125,
    0.25,
    0.5,
    1.0,
    2.5,
    10.0,
)
"""Upper bounds of the latency buckets; one more bucket holds what took longer."""
OTHER = "other"
"""Stands for every client, key and purpose that there is no series for."""
PERFORMED = "performed"
WINDOW_S = 10.0
"""Recent numbers are those of at least so many seconds, and at most twice as many."""

Series = tuple[str, str, str, str]
"""Client, name of the key, purpose, outcome."""


class Recent(NamedTuple):
    """One series: its total since the start, and that of the last `over_s` seconds."""

    series: Series
    total: int
    recent: int
    over_s: float


class Histogram:
    """Durations in seconds: how many fell into each bucket, and their sum."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.total_s += seconds


class Counters:
    """The counters of one front process; lives on its event loop."""

    def __init__(self, most: int = 1_000) -> None:
        self.most = most
        self.counts: dict[Series, int] = {}
        self.latencies: dict[tuple[str, str], Histogram] = {}
        """By purpose and type of key, from arrival to answer, of operations that were performed."""
        self._older: dict[Series, int] = {}
        self._newer: dict[Series, int] = {}
        self._older_at = self._newer_at = 0.0

    def count(self, client: str, key_name: str, purpose: str, outcome: str) -> None:
        """Count one operation. `outcome` is one of a fixed few words."""
        series = (client, key_name, purpose, outcome)
        try:
            self.counts[series] += 1
        except KeyError:
            self._begin(series)

    def took(self, purpose: str, key_type: str, seconds: float) -> None:
        """Note how long a performed operation took."""
        histogram = self.latencies.get((purpose, key_type))
        if histogram is None:
            histogram = self.latencies[purpose, key_type] = Histogram()
        histogram.add(seconds)

    def begin_window(self, now: float) -> None:
        """Recent numbers begin at this monotonic time."""
        self._older_at = self._newer_at = now

    def tick(self, now: float) -> None:
        """Forget what is no longer recent; to be called every second or so with the monotonic time."""
        if now - self._newer_at >= WINDOW_S:
            self._older, self._older_at = self._newer, self._newer_at
            self._newer, self._newer_at = self.counts.copy(), now

    def recent(self, now: float) -> Iterator[Recent]:
        """Every series with what came lately."""
        over_s = max(now - self._older_at, 0.001)
        for series, count in self.counts.items():
            yield Recent(series, count, count - self._older.get(series, 0), over_s)

    def totals(self) -> dict[str, int]:
        """Operations by outcome."""
        totals: dict[str, int] = {}
        for (*_, outcome), count in self.counts.items():
            totals[outcome] = totals.get(outcome, 0) + count
        return totals

    def _begin(self, series: Series) -> None:
        if len(self.counts) >= self.most:
            series = (OTHER, OTHER, OTHER, series[3])
        self.counts[series] = self.counts.get(series, 0) + 1
