"""Which of many equal lines to log: the first, and then one after pauses that double, so that a log is not filled."""

from __future__ import annotations

from collections.abc import Callable, Hashable

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 600.0
_MOST = 64
"""Kinds of lines that are remembered; beyond that all are logged again."""


class Repetition:
    """Remembers what was logged. `clock` is monotonic."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._next: dict[Hashable, tuple[float, float, int]] = {}

    def count(self, line: Hashable) -> int:
        """0 if `line` is to be left out, otherwise how many equal ones it stands for, with those left out before it."""
        now = self._clock()
        due, pause, left_out = self._next.get(line, (now, FIRST_PAUSE_S, 0))
        if now < due:
            self._next[line] = (due, pause, left_out + 1)
            return 0
        if len(self._next) >= _MOST:
            self._next.clear()
        self._next[line] = (now + pause, min(2 * pause, LONGEST_PAUSE_S), 0)
        return left_out + 1

    def forget(self) -> None:
        """Log the next line whatever it is: what the lines were about has ended."""
        self._next.clear()
