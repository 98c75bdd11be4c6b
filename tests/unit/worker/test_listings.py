"""Listings of the control worker: pages by size and by time, and what becomes of listings that are not ended."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from msgspec import Struct

from hsmd.daemon.worker import listings
from hsmd.daemon.worker.listings import Listings
from hsmd.errors import BadRequest
from hsmd.protocol.frames import MAX_ANSWER_LENGTH


class Item(Struct):
    text: str


def pages_of(found: Listings[Item], items: Iterator[Item | None], **options: bool) -> list[list[Item]]:
    page = found.page("", lambda: items, **options)
    pages = [page.items]
    while page.cursor:
        page = found.page(page.cursor, lambda: pytest.fail("it was begun twice"), **options)
        pages.append(page.items)
    return pages


def test_a_page_fits_into_a_frame_and_nothing_is_lost() -> None:
    items = [Item(f"{number:01000d}") for number in range(5_000)]
    for whole in (False, True):
        pages = pages_of(Listings(), iter(items), whole=whole)
        assert [item for page in pages for item in page] == items
        assert len(pages) > 1
        assert all(sum(len(item.text) + 20 for item in page) < MAX_ANSWER_LENGTH for page in pages)


def test_a_page_ends_after_a_time_although_nothing_was_found() -> None:
    now = [0.0]

    def searching() -> Iterator[Item | None]:
        for _ in range(10):
            now[0] += listings.PAGE_S
            yield None
        yield Item("found")

    pages = pages_of(Listings(lambda: now[0]), searching())
    assert [len(page) for page in pages] == [0] * 10 + [1]


def test_a_listing_ends_with_its_last_page_and_makes_room_for_newer_ones() -> None:
    found: Listings[Item] = Listings()

    def many() -> Iterator[Item]:
        return (Item("x" * listings.PAGE_BYTES) for _ in range(3))

    first = found.page("", many).cursor
    later = [found.page("", many).cursor for _ in range(listings.MAX_LISTINGS)]
    for cursor in (first, "unknown"):
        with pytest.raises(BadRequest, match="begin it again"):
            found.page(cursor, many)
    second = found.page(later[0], many)
    with pytest.raises(BadRequest):
        found.page(later[0], many)
    assert found.page(second.cursor, many).cursor
