"""A TOML table being read: takes values by name, notes every fault with its place, refuses what nobody asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any


class TomlTable:
    """One TOML table; `where` is its place in the file, relative paths are relative to `base`."""

    def __init__(self, values: Mapping[str, Any], where: str, faults: list[str], base: Path) -> None:
        self._values = dict(values)
        self._where = where
        self._base = base
        self.faults = faults

    def fault(self, key: str, text: str) -> None:
        self.faults.append(f"{self._where}{key}: {text}")

    def end(self) -> None:
        for key in self._values:
            self.fault(key, "is not a setting of this section; remove it or check its spelling")

    def text(self, key: str, default: str | None = "") -> str:
        """A string; one that must be there (`default` None) must say something too."""
        wanted = "a string" if default is not None else "a string that is not empty"

        def fits(value: Any) -> bool:
            return _is_text(value) and (value != "" or default is not None)

        return self._take(key, default, wanted, fits) or ""

    def choice(self, key: str, default: str, choices: tuple[str, ...]) -> str:
        value = self.text(key, default)
        if value not in choices:
            self.fault(key, f"must be one of {', '.join(choices)}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        return bool(self._take(key, default, "true or false", lambda value: isinstance(value, bool)))

    def number(self, key: str, default: int, low: int, high: int) -> int:
        def fits(value: Any) -> bool:
            return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

        return self._take(key, default, f"a whole number from {low} to {high}", fits)  # type: ignore[no-any-return]

    def file(self, key: str, default: str | None = "") -> Path:
        return self._base / self.text(key, default)

    def optional_file(self, key: str) -> Path | None:
        value = self.text(key)
        return self._base / value if value else None

    def strings(self, key: str, default: Iterable[str] | None = None) -> list[str]:
        """Without a default there must be one at least."""

        def fits(value: Any) -> bool:
            filled = value != [] or default is not None
            return isinstance(value, list) and filled and all(_is_text(item) for item in value)

        return list(self._take(key, default, "a list of strings", fits) or [])

    def string_table(self, key: str) -> dict[str, str]:
        def fits(value: Any) -> bool:
            return isinstance(value, dict) and all(_is_text(item) for pair in value.items() for item in pair)

        return self._take(key, {}, "a table of strings", fits) or {}

    def table(self, key: str) -> TomlTable:
        value = self._take(key, {}, "a table", lambda value: isinstance(value, dict)) or {}
        return TomlTable(value, f"{self._where}{key}.", self.faults, self._base)

    def tables(self, key: str) -> list[TomlTable]:
        def fits(value: Any) -> bool:
            return isinstance(value, list) and value != [] and all(isinstance(item, dict) for item in value)

        values = self._take(key, None, "one or more tables", fits) or []
        return [
            TomlTable(value, f"{self._where}{key}[{at}].", self.faults, self._base)
            for at, value in enumerate(values)
        ]

    def _take(self, key: str, default: Any, wanted: str, fits: Callable[[Any], bool]) -> Any:
        """The value of `key`; a default of None means that it must be there."""
        if key not in self._values:
            if default is None:
                self.fault(key, f"is missing; it must be {wanted}")
            return default
        value = self._values.pop(key)
        if fits(value):
            return value
        self.fault(key, f"must be {wanted}")
        return default


def _is_text(value: Any) -> bool:
    """A string that can be a path, an argument or an environment variable."""
    return isinstance(value, str) and "\0" not in value
