"""When the end of a term is announced: thresholds before it, as those of certificates (docs/events.md)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

END = "end"
LONG = timedelta(days=60)
"""A shorter term has thresholds that are parts of it."""
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Term:
    """A time in which a key may be used; `begin` is when it was stated, if it had begun then."""

    begin: datetime
    end: datetime

    @property
    def thresholds(self) -> tuple[tuple[datetime, str], ...]:
        """When each threshold is passed, and its name, in order."""
        return (*((self.end - left, name) for left, name in self._parts()), (self.end, END))

    def _parts(self) -> tuple[tuple[timedelta, str], ...]:
        length = self.end - self.begin
        if length >= LONG:
            return (30 * _DAY, "30-days"), (7 * _DAY, "7-days"), (_DAY, "1-day")
        return ((length / 3, "third"), (length / 10, "tenth")) if length else ()

    def passed(self, now: datetime, due: datetime) -> tuple[str, ...]:
        """The thresholds from the one that is passed at `due` on that were passed, in order."""
        return tuple(name for at, name in self.thresholds if due <= at <= now)

    def next_due(self, now: datetime) -> datetime | None:
        """When the next threshold is passed; None if all are."""
        return next((at for at, _ in self.thresholds if at > now), None)
