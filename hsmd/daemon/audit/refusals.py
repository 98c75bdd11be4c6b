"""Limits the rate of refusals with a record of their own, so that clients without a grant cannot fill the disk."""

from __future__ import annotations

from collections.abc import Mapping

REFUSALS_EVENT = "log.refusals"
"""The record with the number of refusals of one client that have no record of their own."""
BURST = 100
"""Refusals of one client that get records at once after an idle time."""
PER_SECOND = 10.0
"""Refusals of one client that get records in the long run."""
SUMMARY_EVERY_S = 1.0
_MAX_CLIENTS = 10_000


class RefusalMeter:
    """A token bucket for each client, and the number of refusals for which it was empty."""

    def __init__(self, burst: int = BURST, per_second: float = PER_SECOND) -> None:
        self._burst, self._per_second = float(burst), per_second
        self._buckets: dict[str, tuple[float, float]] = {}
        self.counted: dict[str, int] = {}
        """Refusals by client that no summary has reported yet."""
        self._summary_at = 0.0

    def admit(self, client: str, now: float) -> bool:
        """Whether this refusal gets a record of its own; if not, it is counted. `now`: monotonic seconds."""
        if len(self._buckets) > _MAX_CLIENTS:
            self._buckets.clear()
        level, at = self._buckets.get(client, (self._burst, now))
        level = min(self._burst, level + (now - at) * self._per_second)
        admitted = level >= 1.0
        self._buckets[client] = (level - 1.0 if admitted else level, now)
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
