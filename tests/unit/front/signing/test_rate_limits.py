"""Rate limits of clients: a rate with a second's worth at once, and so many open at a time."""

from __future__ import annotations

from hypothesis import given, strategies as st

from hsmd.daemon.front.signing.rate_limits import RETRY_OPEN_S, RateLimit, RateLimits

LIMITS = RateLimit(rate=10, open_operations=4)


def test_a_rate_with_a_seconds_worth_at_once() -> None:
    shares = RateLimits(LIMITS)
    taken = 0
    for tenth in range(100):
        share = shares.of("ann", tenth / 10)
        while share.take(LIMITS) == 0:
            share.open -= 1
            taken += 1
    assert 108 <= taken <= 110


def test_the_hint_is_the_time_until_the_next_operation() -> None:
    shares = RateLimits(LIMITS)
    share = shares.of("ann", 0.0)
    for _ in range(10):
        assert share.take(LIMITS) == 0
        share.open -= 1
    hint = share.take(LIMITS)
    assert 0.090 <= hint <= 0.110
    assert shares.of("ann", hint + 0.001).take(LIMITS) == 0


def test_so_many_open_at_a_time_over_all_connections() -> None:
    shares = RateLimits(LIMITS)
    for _ in range(4):
        assert shares.of("ann", 0.0).take(LIMITS) == 0
    assert shares.of("ann", 0.0).take(LIMITS) == RETRY_OPEN_S
    assert shares.of("bob", 0.0).take(LIMITS) == 0
    shares.of("ann", 0.0).open -= 1
    assert shares.of("ann", 0.0).take(LIMITS) == 0


@given(st.lists(st.tuples(st.floats(0, 0.5), st.booleans()), max_size=300))
def test_never_more_than_the_rate_and_the_burst(steps: list[tuple[float, bool]]) -> None:
    shares, now, taken = RateLimits(LIMITS), 0.0, 0
    for pause, _ in steps:
        now += pause
        share = shares.of("ann", now)
        if share.take(LIMITS) == 0:
            share.open -= 1
            taken += 1
        assert taken <= LIMITS.rate * (1 + now) + 1


def test_clients_that_are_gone_are_forgotten() -> None:
    shares = RateLimits(LIMITS)
    shares.of("stays", 0.0).take(LIMITS)
    for number in range(5_000):
        shares.of(str(number), 1.0)
    assert shares.of("stays", 1.0).open == 1
    assert len(shares._allowances) <= 1_001
