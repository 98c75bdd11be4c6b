"""Members of a document that a person or an attacker wrote: taken apart by name, each checked, all faults collected."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from hsmd.rollover.problems import Faults

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\Z")
_LAST_YEAR = 9_000
"""Room for adding a clock skew to any date."""
_SHOWN_CHARACTERS = 60

Choice = TypeVar("Choice", bound=StrEnum)


class Members:
    """The members of one object. A method returns the default, or an empty value, for a member with a fault.

    `where` is the place in the document as messages name it, such as `nodes.web1.`. A default of None means required.
    """

    def __init__(self, value: Mapping[str, Any], where: str, faults: Faults) -> None:
        self._values = dict(value)
        self._where = where
        self._faults = faults

    def fault(self, key: str, text: str) -> None:
        """Note what is wrong with a member."""
        self._faults.add(f"{self._where}{shown(key)}: {text}")

    def end(self) -> None:
        """Note members that were not read."""
        for key in self._values:
            self.fault(key, "is not a member here; remove it or check its spelling")

    def text(self, key: str, most: int, default: str | None = None) -> str:
        """A printable line of 1 to `most` characters."""

        def fits(value: Any) -> bool:
            return (
                isinstance(value, str) and bool(value.strip()) and len(value) <= most and value.isprintable()
            )

        return str(self._take(key, default, f"one printable line of at most {most} characters", fits, ""))

    def flag(self, key: str, default: bool | None = None) -> bool:
        """A boolean."""
        return bool(self._take(key, default, "true or false", lambda value: isinstance(value, bool), False))

    def number(self, key: str, default: int, low: int, high: int) -> int:
        """A whole number from `low` to `high`."""

        def fits(value: Any) -> bool:
            return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

        return int(self._take(key, default, f"a whole number from {low} to {high}", fits, default))

    def time(self, key: str) -> datetime:
        """A required time."""
        return self._time(key, None) or datetime(_LAST_YEAR, 1, 1, tzinfo=UTC)

    def choice(self, key: str, choices: type[Choice]) -> Choice:
        """One of the values of an enumeration; its first one if there is a fault."""
        values = [each.value for each in choices]
        return choices(self._take(key, None, f"one of {', '.join(values)}", values.__contains__, values[0]))

    def time_if_given(self, key: str) -> datetime | None:
        """A time, None if it is absent."""
        return self._time(key, None) if key in self._values else None

    def strings(self, key: str, most: int) -> tuple[str, ...]:
        """A list of at most `most` strings, empty if it is absent."""

        def fits(value: Any) -> bool:
            return (
                isinstance(value, list)
                and len(value) <= most
                and all(isinstance(each, str) for each in value)
            )

        return tuple(self._take(key, [], f"a list of at most {most} names", fits, []))

    def members(self, key: str, default: Mapping[str, Any] | None = None) -> Members:
        """An object."""
        value = self._take(key, default, "a table", lambda value: isinstance(value, dict), {})
        return Members(value, f"{self._where}{key}.", self._faults)

    def by_name(self, key: str, most: int) -> Iterator[tuple[str, Members]]:
        """The objects in an object, by their names; none if it is absent or has more than `most`."""

        def fits(value: Any) -> bool:
            return isinstance(value, dict) and len(value) <= most

        for name, value in self._take(key, {}, f"a table of at most {most} tables", fits, {}).items():
            place = f"{self._where}{key}.{shown(name)}"
            if isinstance(value, dict):
                yield name, Members(value, f"{place}.", self._faults)
            else:
                self._faults.add(f"{place}: must be a table")

    def objects(self, key: str, most: int) -> Iterator[Members]:
        """The objects in a list of at most `most`; none if it is absent or longer."""

        def fits(value: Any) -> bool:
            return isinstance(value, list) and len(value) <= most

        for at, value in enumerate(self._take(key, [], f"a list of at most {most} tables", fits, [])):
            place = f"{self._where}{key}[{at}]"
            if isinstance(value, dict):
                yield Members(value, f"{place}.", self._faults)
            else:
                self._faults.add(f"{place}: must be a table")

    def _time(self, key: str, default: None) -> datetime | None:
        value = self._take(
            key,
            default,
            "a time, such as 2027-03-01T00:00:00Z",
            lambda value: _as_time(value) is not None,
            None,
        )
        return _as_time(value)

    def _take(self, key: str, default: Any, wanted: str, fits: Callable[[Any], bool], fallback: Any) -> Any:
        if key not in self._values:
            if default is None:
                self.fault(key, f"is missing; give {wanted}")
                return fallback
            return default
        value = self._values.pop(key)
        if fits(value):
            return value
        self.fault(key, f"is {_described(value)}, and must be {wanted}")
        return fallback


def _as_time(value: object) -> datetime | None:
    """A time with a zone and whole seconds; of TOML's own type, or a text in UTC."""
    if isinstance(value, str) and _TIME.match(value):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime) or value.tzinfo is None or value.microsecond:
        return None
    return value.astimezone(UTC) if 1970 < value.year < _LAST_YEAR else None


def shown(text: str) -> str:
    """What a document has, short enough for a message."""
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _described(value: object) -> str:
    if isinstance(value, dict | list):
        return f"a {'table' if isinstance(value, dict) else 'list'} with {len(value)} entries"
    return repr(shown(str(value))) if not isinstance(value, bool) else str(value).lower()
