"""Reading TOML configuration: every table is taken apart by name, and all faults are collected, each with its place.

A key that was not read is a fault too, so that a misspelt setting is never ignored.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from hsmd.errors import ConfigurationError
from hsmd.system.input_files import open_file, text_fault

MAX_FILE_BYTES = 1 << 20


Check = Callable[[os.stat_result], None]
"""Raises ConfigurationError for a file that must not be used, for example because of its mode."""


def read_text(path: Path, missing_hint: str = "", check: Check | None = None) -> str:
    """The text of a configuration file. Raises ConfigurationError; `missing_hint` is appended if it cannot be read."""
    try:
        return read_readable(path, check)
    except OSError as error:
        raise ConfigurationError(str(path), [f"cannot be read: {error.strerror}{missing_hint}"]) from None


def read_readable(path: Path, check: Check | None = None) -> str:
    """As `read_text`, but raises OSError for a file that cannot be read."""
    with open(open_file(path), "rb") as file:
        if check is not None:
            check(os.fstat(file.fileno()))
        content = file.read(MAX_FILE_BYTES + 1)
    if fault := text_fault(content[:MAX_FILE_BYTES]).removeprefix("it "):
        raise ConfigurationError(str(path), [fault])
    if len(content) > MAX_FILE_BYTES:
        raise ConfigurationError(str(path), [f"has more than {MAX_FILE_BYTES} bytes"])
    return content.decode("utf-8")


def parse_text(text: str, source: str) -> dict[str, Any]:
    """The TOML document in `text`. Raises ConfigurationError, which names `source`."""
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(source, [f"is not TOML: {error}"]) from None


class TomlTable:
    """One TOML table; `where` is its place in the file, relative paths are relative to `base`.

    A method returns the default, or an empty value, for a setting with a fault. With a default of None the setting is required.
    """

    def __init__(self, values: Mapping[str, Any], where: str, faults: list[str], base: Path) -> None:
        self._values = dict(values)
        self._where = where
        self._base = base
        self.faults = faults

    def where(self, key: str) -> str:
        """Where `key` is in the file, as faults name it: `listen.addresses`, `token[0].label`."""
        return f"{self._where}{key}"

    def fault(self, key: str, text: str) -> None:
        """Note that the setting `key` is wrong."""
        self.faults.append(f"{self.where(key)}: {text}")

    def end(self) -> None:
        """Note every key that was not read. Call it after the last setting of the table."""
        for key in self._values:
            self.fault(key, "is not a setting of this section; remove it or check its spelling")

    def text(self, key: str, default: str | None = "") -> str:
        """A string; a required one must not be empty."""
        wanted = "a string" if default is not None else "a string that is not empty"

        def fits(value: Any) -> bool:
            return _is_text(value) and (value != "" or default is not None)

        return self._take(key, default, wanted, fits) or ""

    def choice(self, key: str, default: str, choices: tuple[str, ...]) -> str:
        """One of several strings."""
        value = self.text(key, default)
        if value not in choices:
            self.fault(key, f"must be one of {', '.join(choices)}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """A boolean."""
        return bool(self._take(key, default, "true or false", lambda value: isinstance(value, bool)))

    def number(self, key: str, default: int, low: int, high: int) -> int:
        """A whole number from `low` to `high`."""

        def fits(value: Any) -> bool:
            return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

        return self._take(key, default, f"a whole number from {low} to {high}", fits)  # type: ignore[no-any-return]

    def file(self, key: str, default: str | None = "") -> Path:
        """A path; a relative one is relative to `base`."""
        return self._base / self.text(key, default)

    def optional_file(self, key: str) -> Path | None:
        """A path, None if it is not given or empty."""
        value = self.text(key)
        return self._base / value if value else None

    def strings(
        self, key: str, default: Iterable[str] | None = None, *, may_be_empty: bool = False
    ) -> list[str]:
        """A list of strings; a required one must have at least one entry unless it `may_be_empty`."""
        may_be_empty = may_be_empty or default is not None

        def fits(value: Any) -> bool:
            filled = value != [] or may_be_empty
            return isinstance(value, list) and filled and all(_is_text(item) for item in value)

        return list(self._take(key, default, "a list of strings", fits) or [])

    def string_table(self, key: str) -> dict[str, str]:
        """A table whose values are strings."""

        def fits(value: Any) -> bool:
            return isinstance(value, dict) and all(_is_text(item) for pair in value.items() for item in pair)

        return self._take(key, {}, "a table of strings", fits) or {}

    def table(self, key: str) -> TomlTable:
        """A table, empty if it is not given."""
        value = self._take(key, {}, "a table", lambda value: isinstance(value, dict)) or {}
        return TomlTable(value, f"{self.where(key)}.", self.faults, self._base)

    def tables(self, key: str, *, may_be_missing: bool = False) -> list[TomlTable]:
        """An array of tables with at least one entry, unless it `may_be_missing`."""

        def fits(value: Any) -> bool:
            return isinstance(value, list) and value != [] and all(isinstance(item, dict) for item in value)

        values = self._take(key, [] if may_be_missing else None, f"one or more [[{key}]] tables", fits) or []
        return [
            TomlTable(value, f"{self.where(key)}[{at}].", self.faults, self._base)
            for at, value in enumerate(values)
        ]

    def named_tables(self) -> dict[str, TomlTable]:
        """All that is left in this table, as tables by name."""
        return {name: self.table(name) for name in list(self._values)}

    def _take(self, key: str, default: Any, wanted: str, fits: Callable[[Any], bool]) -> Any:
        """The value of `key`; a default of None means that it is required."""
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
    """Whether `value` is a string that can be a path, an argument or an environment variable."""
    return isinstance(value, str) and "\0" not in value
