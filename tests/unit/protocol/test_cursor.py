"""Cursors of the ledger as text."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from hsmd.errors import BadRequest
from hsmd.protocol.cursor import MAX_NUMBER, Cursor


@given(st.integers(0, 2**32 - 1), st.integers(0, MAX_NUMBER))
def test_a_cursor_is_read_back(epoch: int, number: int) -> None:
    cursor = Cursor(f"{epoch:08x}", number)
    assert Cursor.parse(str(cursor)) == cursor


@pytest.mark.parametrize(
    "text",
    [
        "", "5f3a9c1e", "5f3a9c1e.", ".1", "5F3A9C1E.1", "5f3a9c1.1", "5f3a9c1e.01", "5f3a9c1e.-1", "5f3a9c1e.1 ",
        "5f3a9c1e.1\n", "5f3a9c1e.\u0661", f"5f3a9c1e.{MAX_NUMBER + 1}", "5f3a9c1e." + "9" * 5_000, "\x00" * 20,
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(BadRequest) as refused:
        Cursor.parse(text, "since")
    assert refused.value.text.startswith(f"since: {text[:64]!r} is not a cursor; give one as")
    assert len(refused.value.text) < 400
