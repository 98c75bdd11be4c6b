"""Times that users give: a date, a time, or how long from now on."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from hsmd.cli.base.errors import CommandError, Exit

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SPAN = re.compile(r"([1-9][0-9]{0,5})([mhdw])")


def span_s(option: str, text: str) -> int:
    """How many seconds a user means with `90d`, `36h`, `30m` or `2w`. Raises CommandError that names the option."""
    if span := _SPAN.fullmatch(text):
        return int(timedelta(**{_UNITS[span[2]]: int(span[1])}).total_seconds())
    raise CommandError(
        f"{option}: {text!r} is not a length of time", "give for example 90d, 36h or 30m", Exit.USAGE
    )


def earlier(option: str, text: str, now: datetime) -> datetime:
    """As `moment`, but `8h` is eight hours before `now`."""
    if span := _SPAN.fullmatch(text):
        return now - timedelta(**{_UNITS[span[2]]: int(span[1])})
    return moment(option, text, now)


def moment(option: str, text: str, now: datetime) -> datetime:
    """The time that a user means, in UTC: `8h` from `now` on, `2026-12-24` (its beginning), or `2026-12-24T18:30Z`.

    Raises CommandError that names the option. A time without zone is UTC.
    """
    try:
        if span := _SPAN.fullmatch(text):
            return (now + timedelta(**{_UNITS[span[2]]: int(span[1])})).replace(microsecond=0)
        given = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise CommandError(
            f"{option}: {text!r} is not a time",
            "give for example 8h, 2d, 2026-12-24 or 2026-12-24T18:30Z",
            Exit.USAGE,
        ) from None
    return (given if given.tzinfo else given.replace(tzinfo=UTC)).astimezone(UTC)
