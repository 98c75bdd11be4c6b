"""Rate limits of clients: operations per second with a burst of one second, and concurrently open operations."""

from __future__ import annotations

from hypothesis import given, strategies as st

from hsmd.daemon.front.signing.rate_limits import RETRY_OPEN_S, RateLimit, RateLimits

LIMITS = RateLimit(rate=10, open_operations=4)


def test_a_burst_of_one_second_is_allowed_and_then_the_rate() -> None:
    limits = RateLimits(LIMITS)
    taken = 0
    for tenth in range(100):
        allowance = limits.of("ann", tenth / 10)
        while allowance.take(LIMITS) == 0:
            allowance.open -= 1
            taken += 1
    assert 108 <= taken <= 110


def test_the_hint_is_the_time_until_the_next_operation() -> None:
    limits = RateLimits(LIMITS)
    allowance = limits.of("ann", 0.0)
    for _ in range(10):
        assert allowance.take(LIMITS) == 0
        allowance.open -= 1
    hint = allowance.take(LIMITS)
    assert 0.090 <= hint <= 0.110
    assert limits.of("ann", hint + 0.001).take(LIMITS) == 0


def test_open_operations_are_limited_over_all_connections() -> None:
    limits = RateLimits(LIMITS)
    for _ in range(4):
        assert limits.of("ann", 0.0).take(LIMITS) == 0
    assert limits.of("ann", 0.0).take(LIMITS) == RETRY_OPEN_S
    assert limits.of("bob", 0.0).take(LIMITS) == 0
    limits.of("ann", 0.0).open -= 1
    assert limits.of("ann", 0.0).take(LIMITS) == 0


@given(st.lists(st.tuples(st.floats(0, 0.5), st.booleans()), max_size=300))
def test_rate_and_burst_are_never_exceeded(steps: list[tuple[float, bool]]) -> None:
    limits, now, taken = RateLimits(LIMITS), 0.0, 0
    for pause, _ in steps:
        now += pause
        allowance = limits.of("ann", now)
        if allowance.take(LIMITS) == 0:
            allowance.open -= 1
            taken += 1
        assert taken <= LIMITS.rate * (1 + now) + 1


def test_clients_that_left_are_forgotten() -> None:
    limits = RateLimits(LIMITS)
    limits.of("stays", 0.0).take(LIMITS)
    for number in range(5_000):
        limits.of(str(number), 1.0)
    assert limits.of("stays", 1.0).open == 1
    assert len(limits._allowances) <= 1_001
