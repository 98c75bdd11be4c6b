"""Growing delays between the starts of a process that keeps ending."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_DELAY_S = 0.05
LONGEST_DELAY_S = 1.0
"""Upper bound of the delay, so that a token or front that works again is used within two seconds."""
HEALTHY_S = 5.0
"""A process that ran this long is restarted without delay when it ends."""


@dataclass(slots=True)
class Backoff:
    """When a process may be started again. All times are monotonic."""

    next_start: float = 0.0
    _started_at: float = 0.0
    _delay_s: float = 0.0

    def started(self, now: float) -> None:
        """The process is being started."""
        self._started_at = now

    def ended(self, now: float) -> None:
        """The process has ended or could not be started."""
        self._delay_s = next_delay(self._delay_s, now - self._started_at)
        self.next_start = now + self._delay_s

    def reset(self) -> None:
        """Allow the next start at once."""
        self.next_start, self._delay_s = 0.0, 0.0


def next_delay(delay_s: float, ran_s: float) -> float:
    """The delay before the next start of a process that ran for `ran_s` after a delay of `delay_s`."""
    if ran_s >= HEALTHY_S:
        return 0.0
    return min(max(delay_s * 2, FIRST_DELAY_S), LONGEST_DELAY_S)
