"""A lenient reader of CBOR (RFC 8949): enough to see whether bytes are something that is signed.

It reads every encoding of a length, also longer ones than necessary and indefinite ones.
"""

from __future__ import annotations

from typing import NamedTuple

BYTES, TEXT, ARRAY, MAP, TAG = 2, 3, 4, 5, 6
_SIMPLE = 7
_INDEFINITE = 31
_BREAK = 0xFF
_MAX_DEPTH = 8
_MAX_ITEMS = 64
_ARGUMENT_BYTES = {24: 1, 25: 2, 26: 4, 27: 8}


class Head(NamedTuple):
    """The first bytes of an item: major type, argument (None if the length is indefinite), and where its content begins."""

    major: int
    argument: int | None
    end: int


def head(data: bytes, at: int) -> Head | None:
    """The head at `at`; None if there is no well-formed one."""
    if at >= len(data):
        return None
    major, short = data[at] >> 5, data[at] & 0x1F
    if short < 24:
        return Head(major, short, at + 1)
    if short == _INDEFINITE:
        return Head(major, None, at + 1)
    size = _ARGUMENT_BYTES.get(short)
    if size is None or at + 1 + size > len(data):
        return None
    return Head(major, int.from_bytes(data[at + 1 : at + 1 + size]), at + 1 + size)


def untagged(data: bytes, at: int) -> Head | None:
    """The head of the item at `at`, after any tags."""
    found = head(data, at)
    while found is not None and found.major == TAG:
        found = head(data, found.end)
    return found


def text(data: bytes, at: int) -> bytes | None:
    """The content of the text string at `at`, in one piece or in chunks; cut off at the end of `data`. None for other items."""
    found = untagged(data, at)
    if found is None or found.major != TEXT:
        return None
    if found.argument is not None:
        return data[found.end : found.end + found.argument]
    chunks = []
    at = found.end
    while (chunk := head(data, at)) is not None and chunk.major == TEXT and chunk.argument is not None:
        at = chunk.end + chunk.argument
        chunks.append(data[chunk.end : at])
    return b"".join(chunks)


def skip(data: bytes, at: int, depth: int = 0) -> int:
    """The end of the item at `at`; -1 if it is not well-formed, nested deeper than 8 or has more than 64 members."""
    found = head(data, at)
    if found is None or depth > _MAX_DEPTH:
        return -1
    major, argument, end = found
    if major in (BYTES, TEXT) and argument is not None:
        return end + argument if end + argument <= len(data) else -1
    if major in (ARRAY, MAP, BYTES, TEXT, TAG):
        count = 1 if major == TAG else argument
        if count is not None and major == MAP:
            count *= 2
        return _skip_members(data, end, count, depth + 1)
    return end if argument is not None else -1


def _skip_members(data: bytes, at: int, count: int | None, depth: int) -> int:
    """The end of `count` items, or of all before a break."""
    for done in range(_MAX_ITEMS):
        if done == count:
            return at
        if count is None and data[at : at + 1] == bytes([_BREAK]):
            return at + 1
        at = skip(data, at, depth)
        if at < 0:
            return -1
    return -1
