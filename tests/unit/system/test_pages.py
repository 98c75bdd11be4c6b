"""Pages of lists: as many items as fit into an answer."""

from __future__ import annotations

from datetime import UTC, datetime

from hsmd.protocol.messages import ClientInfo, ClientPage, encode_result
from hsmd.system.control_requests import MAX_RESULT_BYTES
from hsmd.system.pages import fitting

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def client(name: str, keys: int) -> ClientInfo:
    return ClientInfo(name, "front-end", ["SHA256:" + "x" * 43] * keys, NOW, ["front-end"])


def test_a_page_of_long_items_ends_where_an_answer_does() -> None:
    items = [client(f"c{number}", 200) for number in range(500)]
    found, more = fitting(items, False)
    assert more
    assert 10 < len(found) < len(items)
    assert found == items[: len(found)]
    assert MAX_RESULT_BYTES * 0.9 < len(encode_result(ClientPage(found, more))) <= MAX_RESULT_BYTES
    assert fitting(items[len(found) :], True)[1]


def test_a_page_of_short_items_has_all_of_them() -> None:
    items = [client(f"c{number}", 1) for number in range(500)]
    assert fitting(items, False) == (items, False)
    assert fitting(items, True) == (items, True)
    assert fitting([], False) == ([], False)


def test_a_page_makes_progress() -> None:
    """An item that is too long alone is refused where answers are encoded, not left out."""
    items = [client("long", 30_000), client("short", 1)]
    assert fitting(items, False) == (items[:1], True)
