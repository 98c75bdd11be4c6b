"""Counters of key operations by client, key, purpose and outcome, and histograms of how long they took.

Each operation costs one look-up and one addition, and another in a histogram if it was performed. Status and metrics read the
numbers when they are asked for. Only clients that have logged in and keys in the store have series, so that requests cannot
create arbitrary ones; beyond `most` series, further operations are counted as `other`.
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
"""Upper bounds of the latency buckets; one more bucket is for longer latencies."""
OTHER = "other"
"""The client, key and purpose of operations without a series of their own."""
PERFORMED = "performed"
WINDOW_S = 10.0
"""Recent numbers cover at least this many seconds, and at most twice as many."""

Series = tuple[str, str, str, str]
"""Client, name of the key, purpose, outcome."""


class Recent(NamedTuple):
    """One series: its total since the start, and that of the last `over_s` seconds."""

    series: Series
    total: int
    recent: int
    over_s: float


class Histogram:
    """Durations in seconds: a count for each bucket, and the sum."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.total_s += seconds


class Counters:
    """The counters of one front process."""

    def __init__(self, most: int = 1_000) -> None:
        self.most = most
        self.counts: dict[Series, int] = {}
        self.latencies: dict[tuple[str, str], Histogram] = {}
        """From arrival to answer of performed operations, by purpose and key type."""
        self._older: dict[Series, int] = {}
        self._newer: dict[Series, int] = {}
        self._older_at = self._newer_at = 0.0

    def count(self, client: str, key_name: str, purpose: str, outcome: str) -> None:
        """Count one operation. `outcome` is one of a small fixed set of words."""
        series = (client, key_name, purpose, outcome)
        try:
            self.counts[series] += 1
        except KeyError:
            self._begin(series)

    def took(self, purpose: str, key_type: str, seconds: float) -> None:
        """Count how long a performed operation took."""
        histogram = self.latencies.get((purpose, key_type))
        if histogram is None:
            histogram = self.latencies[purpose, key_type] = Histogram()
        histogram.add(seconds)

    def begin_window(self, now: float) -> None:
        """Start the recent numbers at this monotonic time."""
        self._older_at = self._newer_at = now

    def tick(self, now: float) -> None:
        """Drop what is no longer recent; call it about every second with the monotonic time."""
        if now - self._newer_at >= WINDOW_S:
            self._older, self._older_at = self._newer, self._newer_at
            self._newer, self._newer_at = self.counts.copy(), now

    def recent(self, now: float) -> Iterator[Recent]:
        """Every series with its recent count."""
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
