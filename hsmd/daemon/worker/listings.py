"""Listings: long answers of the control worker, in pages that fit into a frame and let other requests in between.

A listing is an iterator that the worker keeps between two pages. It ends when its last page was taken, or when newer ones need
its place.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from hsmd.errors import BadRequest

PAGE_BYTES = 262_144
"""Size of the items on a page; the last one may go beyond it. A frame to the front has four times as many."""
WHOLE_BYTES = 900_000
"""Size of a page for fronts of earlier releases, which take it for the whole list and run on during an upgrade."""
PAGE_S = 0.2
"""Time after which a page ends, whatever is on it: other requests are carried out between pages."""
MAX_LISTINGS = 4

T = TypeVar("T", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some items, perhaps none, and the cursor for the next page; empty if there is none."""

    items: list[T]
    cursor: str


class Listings(Generic[T]):
    """The listings that are under way in one control worker."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._running: dict[str, Iterator[T | None]] = {}

    def page(self, cursor: str, begin: Callable[[], Iterator[T | None]], *, whole: bool = False) -> Page[T]:
        """The next page of a listing; without a cursor the first one of a new one, whose items `begin` makes.

        None among them is a place where a page may end. With `whole` a page is as large as a frame allows, however long that
        takes. Raises BadRequest if the listing has ended, and what the items raise.
        """
        items = self._running.pop(cursor, None) if cursor else begin()
        if items is None:
            raise BadRequest("cursor: this list has ended; begin it again")
        page, size, most = [], 0, WHOLE_BYTES if whole else PAGE_BYTES
        ends = float("inf") if whole else self._clock() + PAGE_S
        for item in items:
            if item is not None:
                page.append(item)
                size += len(msgspec.json.encode(item))
            if size >= most or self._clock() >= ends:
                return Page(page, self._keep(items))
        return Page(page, "")

    def _keep(self, items: Iterator[T | None]) -> str:
        while len(self._running) >= MAX_LISTINGS:
            del self._running[next(iter(self._running))]
        cursor = os.urandom(8).hex()
        self._running[cursor] = items
        return cursor
