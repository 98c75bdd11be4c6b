"""The list of archived segments: a small file beside the segments, which `hsmd audit archive` writes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from hsmd.system.log_files import ARCHIVED_NAME


@dataclass(frozen=True, slots=True)
class Archived:
    """A sealed segment with the records `first` up to (not including) `end` that was copied to the directory `to`."""

    first: int
    end: int
    sha256: str
    to: str


def archived(segments: Path) -> list[Archived]:
    """The segments archived from this directory, oldest first."""
    try:
        return [Archived(**entry) for entry in json.loads((segments / ARCHIVED_NAME).read_text())]
    except FileNotFoundError:
        return []


def to_json(entries: Iterable[Archived]) -> str:
    """The file's text."""
    return (
        json.dumps([asdict(entry) for entry in sorted(entries, key=lambda entry: entry.first)], indent=1)
        + "\n"
    )


def archived_to(segments: Path, index: int) -> str:
    """` to DIRECTORY` for an archived record; empty if its directory is not listed."""
    try:
        found = [entry.to for entry in archived(segments) if entry.first <= index < entry.end]
    except (OSError, ValueError, TypeError):
        found = []
    return f" to {found[-1]}" if found else ""
