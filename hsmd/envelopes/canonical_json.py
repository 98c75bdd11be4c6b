"""Canonical JSON as RFC 8785 defines it, without fractions and null: each value has exactly one form.

Values are objects, arrays, strings, booleans, and integers that every JSON reader represents exactly (RFC 7493, section
2.2). That is all a header needs, and leaves out the one difficult part of RFC 8785, the form of fractions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NoReturn

from hsmd.errors import EnvelopeInvalid

MAX_INTEGER = 2**53 - 1
MAX_DEPTH = 8
"""Deepest nesting of objects and arrays."""

Value = bool | int | str | Sequence["Value"] | Mapping[str, "Value"]


def encode(value: object) -> bytes:
    """The canonical form in UTF-8. Raises EnvelopeInvalid for anything that has none."""
    text = json.dumps(_canonical(value, MAX_DEPTH), ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise EnvelopeInvalid("canonical JSON: a string has half of a surrogate pair") from None


def decode(data: bytes) -> object:
    """The value that `data` is the canonical form of.

    Raises EnvelopeInvalid for every other form of a value: other spacing, order or escapes, members that occur twice.
    """
    try:
        value = json.loads(data.decode(), parse_float=_refuse, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise EnvelopeInvalid("canonical JSON: not JSON, or with a number that is not an integer") from None
    if encode(value) != data:
        raise EnvelopeInvalid("canonical JSON: not in the canonical form (RFC 8785)")
    return value


def _canonical(value: object, depth: int) -> object:
    """The value with the members of its objects in canonical order."""
    if isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise EnvelopeInvalid("canonical JSON: an integer is beyond 2^53 - 1")
        return value
    if depth == 0:
        raise EnvelopeInvalid(f"canonical JSON: nested deeper than {MAX_DEPTH}")
    if isinstance(value, Mapping):
        return {name: _canonical(value[name], depth - 1) for name in sorted(value, key=_order)}
    if isinstance(value, list | tuple):
        return [_canonical(item, depth - 1) for item in value]
    raise EnvelopeInvalid(
        f"canonical JSON: {type(value).__name__} is not an object, array, string, boolean or integer"
    )


def _order(name: object) -> bytes:
    """What members are sorted by: UTF-16 code units (RFC 8785, section 3.2.3)."""
    if not isinstance(name, str):
        raise EnvelopeInvalid("canonical JSON: the name of a member is not a string")
    return name.encode("utf-16-be", "surrogatepass")


def _refuse(_number: str) -> NoReturn:
    raise ValueError
