"""Times in the vault's texts: one form, UTC, whole seconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, strategies as st

from hsmd.envelopes.vault.fields import format_time, parse_time
from hsmd.errors import EnvelopeInvalid


@given(st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC)))  # noqa: DTZ001
def test_a_time_comes_back_without_its_fraction(moment: datetime) -> None:
    text = format_time(moment)
    assert parse_time(text) == moment.replace(microsecond=0)
    assert len(text) == 20


def test_the_order_of_texts_is_that_of_times() -> None:
    assert format_time(datetime(999, 12, 31, tzinfo=UTC)) < format_time(datetime(2026, 1, 1, tzinfo=UTC))


def test_other_time_zones_are_brought_to_utc() -> None:
    there = datetime(2026, 3, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    assert format_time(there) == "2026-02-28T23:30:00Z"


@given(st.text(max_size=30))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(EnvelopeInvalid):
        parse_time(text)
