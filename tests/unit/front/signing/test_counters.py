"""Counters: bounded series, histograms whose buckets add up, and what counts as recent."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, strategies as st

from hsmd.daemon.front.signing.counters import BOUNDS_S, OTHER, WINDOW_S, Counters, Histogram


def test_series_are_bounded_and_all_operations_are_counted() -> None:
    counters = Counters(most=10)
    for number in range(1_000):
        counters.count(f"client-{number}", "key", "tls13-server", ("performed", "refused")[number % 2])
    assert len(counters.counts) == 12
    assert counters.counts[OTHER, OTHER, OTHER, "performed"] == 495
    assert counters.totals() == {"performed": 500, "refused": 500}


def test_an_existing_series_continues_when_there_are_too_many() -> None:
    counters = Counters(most=1)
    for client in ("a", "b", "a"):
        counters.count(client, "key", "tls13-server", "performed")
    assert counters.counts["a", "key", "tls13-server", "performed"] == 2


@given(st.lists(st.floats(0, 100, allow_nan=False)))
def test_every_duration_is_in_one_bucket(durations: list[float]) -> None:
    histogram = Histogram()
    for duration in durations:
        histogram.add(duration)
    assert sum(histogram.counts) == len(durations)
    for count, (above, bound) in zip(
        histogram.counts, pairwise((-1.0, *BOUNDS_S, float("inf"))), strict=True
    ):
        assert count == sum(above < duration <= bound for duration in durations)


def test_recent_counts_cover_the_last_one_or_two_windows() -> None:
    counters = Counters()
    counters.begin_window(0.0)
    series = ("web", "key", "tls13-server", "performed")
    for second in range(100):
        counters.count(*series)
        counters.tick(float(second))
        (found,) = counters.recent(float(second))
        assert found.total == second + 1
        assert found.over_s < 2 * WINDOW_S + 1
        if second:
            assert abs(found.recent / found.over_s - 1.0) <= 1.0 / found.over_s + 0.11
