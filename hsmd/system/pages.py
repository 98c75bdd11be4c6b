"""Pages of lists: how many items fit into one answer, whatever their number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from msgspec import Struct

from hsmd.protocol import messages
from hsmd.system.control_requests import MAX_RESULT_BYTES

MAX_PAGE_BYTES = MAX_RESULT_BYTES - 16_384
"""What the items of a page have in all; the rest of an answer is shorter than what is left."""

T = TypeVar("T", bound=Struct)


def fitting(items: Sequence[T], more: bool) -> tuple[list[T], bool]:
    """The first of these items that fit into an answer, one at least; whether there are further ones (`more`: behind them)."""
    room = MAX_PAGE_BYTES
    for number, item in enumerate(items):
        room -= len(messages.encode_result(item)) + 1
        if room < 0 and number:
            return list(items[:number]), True
    return list(items), more
