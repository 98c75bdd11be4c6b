"""Limits the rate of records that clients can cause without using a key, so that none of them can fill the disk."""

from __future__ import annotations

from collections.abc import Mapping

REFUSALS_EVENT = "log.refusals"
"""The record with the number of refusals of one client that have no record of their own."""
BURST = 100
"""Refusals, or changes, of one client that get records at once after an idle time."""
PER_SECOND = 10.0
"""Refusals, or changes, of one client that get records in the long run."""
SUMMARY_EVERY_S = 1.0
_MAX_CLIENTS = 10_000


class RecordRate:
    """A token bucket for each client: how many records it may cause."""

    def __init__(self, burst: int = BURST, per_second: float = PER_SECOND) -> None:
        self._burst, self._per_second = float(burst), per_second
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, client: str, now: float) -> bool:
        """Whether one more record is allowed, which is then counted. `now`: monotonic seconds."""
        if len(self._buckets) > _MAX_CLIENTS:
            self._buckets.clear()
        level, at = self._buckets.get(client, (self._burst, now))
        level = min(self._burst, level + (now - at) * self._per_second)
        admitted = level >= 1.0
        self._buckets[client] = (level - 1.0 if admitted else level, now)
        return admitted


class RefusalMeter:
    """The rate of refusals with a record of their own, and the number of the others by client."""

    def __init__(self, burst: int = BURST, per_second: float = PER_SECOND) -> None:
        self._rate = RecordRate(burst, per_second)
        self.counted: dict[str, int] = {}
        """Refusals by client that no summary has reported yet."""
        self._summary_at = 0.0

    def admit(self, client: str, now: float) -> bool:
        """Whether this refusal gets a record of its own; if not, it is counted. `now`: monotonic seconds."""
        admitted = self._rate.take(client, now)
        if not admitted:
            self.counted[client] = self.counted.get(client, 0) + 1
        return admitted

    def due(self, now: float) -> dict[str, int]:
        """Return the counts by client, at most once a second, and reset them."""
        if not self.counted or now < self._summary_at:
            return {}
        self._summary_at = now + SUMMARY_EVERY_S
        counted, self.counted = self.counted, {}
        return counted

    def take_back(self, counts: Mapping[str, int]) -> None:
        """Add counts back that could not be recorded."""
        for client, count in counts.items():
            self.counted[client] = self.counted.get(client, 0) + count
