"""When a node renews, and when it asks again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from hsmd.node.renewal import OFTEN_S, RETRY_S, SELDOM_S, SHARE, SPREAD, due, next_look

BEGINS = datetime(2027, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_nodes_renew_at_about_two_thirds_and_not_together() -> None:
    times = {due(BEGINS, BEGINS + HOUR, f"web{number}") for number in range(200)}
    assert len(times) == 200, "each at its own time"
    assert BEGINS + HOUR * SHARE <= min(times) < max(times) <= BEGINS + HOUR * (SHARE + SPREAD)
    assert max(times) - min(times) > HOUR * SPREAD / 2, "they are spread"


def test_a_node_keeps_its_time() -> None:
    assert due(BEGINS, BEGINS + HOUR, "web1") == due(BEGINS, BEGINS + HOUR, "web1")


@pytest.mark.parametrize(
    ("term", "failed", "seconds"),
    [
        (timedelta(hours=1), False, 300),
        (timedelta(days=90), False, SELDOM_S),
        (timedelta(seconds=1), False, OFTEN_S),
        (timedelta(hours=1), True, 90),
        (timedelta(days=90), True, SELDOM_S),
        (timedelta(seconds=-10), True, RETRY_S),
    ],
)
def test_the_next_look(term: timedelta, failed: bool, seconds: float) -> None:
    now = BEGINS
    assert next_look(BEGINS, BEGINS + term, now, failed=failed) - now == timedelta(seconds=seconds)
