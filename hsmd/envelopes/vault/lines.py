"""Lines of statements that a daemon signs about a vault: `name value` each, in a fixed order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hsmd.errors import EnvelopeInvalid

NONE = "none"
"""Value of a line that has nothing to say."""


def write(members: Mapping[str, str]) -> tuple[str, ...]:
    """The lines of these members."""
    return tuple(f"{name} {value}" for name, value in members.items())


def read(lines: Sequence[str], names: Sequence[str], what: str) -> dict[str, str]:
    """The members of lines with exactly these names in this order. Raises EnvelopeInvalid, whose text begins with `what`."""
    pairs = [line.partition(" ") for line in lines]
    if [name for name, _, _ in pairs] != list(names) or any(not value for _, _, value in pairs):
        raise EnvelopeInvalid(f"{what}: its lines are not {', '.join(names)}, a value behind each")
    return {name: value for name, _, value in pairs}


def number(text: str, what: str, name: str, most: int) -> int:
    """A decimal number from 0 to `most`, in its one form. Raises EnvelopeInvalid."""
    if not (
        text.isascii() and text.isdigit() and len(text) <= 12 and str(int(text)) == text and int(text) <= most
    ):
        raise EnvelopeInvalid(f"{what}: {name} is not a number up to {most}")
    return int(text)
