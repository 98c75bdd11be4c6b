"""The breaker: only probes move it, exhaustively; and the pool that drives it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from hsmd.daemon.front.tokens.circuit_breaker import SILENT_STARTS, BreakerState, CircuitBreaker, TokenHealth
from hsmd.daemon.ipc import worker_messages

EVENTS = ("begin", "passed", "failed-alone", "failed-among-others")
CLOSED, OPEN, PROBING = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.PROBING
TABLE = {
    (CLOSED, "begin"): CLOSED, (CLOSED, "passed"): CLOSED, (CLOSED, "failed-alone"): OPEN,
    (CLOSED, "failed-among-others"): CLOSED,
    (OPEN, "begin"): PROBING, (OPEN, "passed"): CLOSED, (OPEN, "failed-alone"): OPEN, (OPEN, "failed-among-others"): OPEN,
    (PROBING, "begin"): PROBING, (PROBING, "passed"): CLOSED, (PROBING, "failed-alone"): OPEN,
    (PROBING, "failed-among-others"): PROBING,
}  # fmt: skip


def happen(breaker: CircuitBreaker, event: str) -> None:
    if event == "begin":
        breaker.begin()
    elif event == "passed":
        breaker.passed()
    else:
        breaker.failed("why", others=event == "failed-among-others")


@pytest.mark.parametrize("length", [1, 3, 6])
def test_all_sequences(length: int) -> None:
    for events in itertools.product(EVENTS, repeat=length):
        breaker = CircuitBreaker()
        for event in events:
            expected = TABLE[breaker.state, event]
            happen(breaker, event)
            assert breaker.state is expected, events
            assert bool(breaker.reason) is (expected is not CLOSED), events
        if events[-1] == "passed":
            assert breaker.state is CLOSED


class Heard:
    """A listener, and a log."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *values, **fields: self.calls.append((name, *values))

    def moves(self) -> list[bool]:
        return [call[2] for call in self.calls if call[0] == "breaker_moved"]


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def health(heard: Heard) -> TokenHealth:
    return TokenHealth("main", probe_s=20.0, listener=heard, log=Heard())


def test_the_listener_hears_each_move_once(health: TokenHealth, heard: Heard) -> None:
    for _ in range(3):
        health.starting()
        health.not_started("gone", others=False)
    assert (health.refusing, health.reason) == (True, "gone")
    for _ in range(2):
        health.starting()
        health.ready()
    assert heard.moves() == [False, True]
    assert (health.refusing, health.reason) == (False, "")


def test_a_killed_start_proves_nothing_about_the_token_but_three_in_a_row_do(
    health: TokenHealth, heard: Heard
) -> None:
    for _ in range(SILENT_STARTS - 1):
        health.ended_silently(others=False)
    assert not health.refusing
    health.ready()
    for _ in range(SILENT_STARTS):
        assert not health.refusing
        health.ended_silently(others=False)
    assert health.refusing
    assert heard.moves() == [False]


def test_a_refused_login_is_no_fault_of_the_token(health: TokenHealth, heard: Heard) -> None:
    health.login_refused("wrong PIN")
    assert health.state is CLOSED
    assert health.refusing
    assert ("login_refused", "main", "wrong PIN") in heard.calls
    health.ready()
    assert not health.refusing


class Link:
    """A worker that is asked."""

    def __init__(self) -> None:
        self.jobs: dict[int, object] = {}
        self.probing, self.probed_at, self.moved_at, self.sent = False, 0.0, 0.0, 0

    def send(self, data: bytes) -> None:
        assert worker_messages.PROBE in data
        self.sent += 1


def test_idle_workers_are_asked_at_the_interval_and_once_at_a_time(health: TokenHealth) -> None:
    link: Any = Link()
    asked = []
    for second in range(100):
        health.ask_idle([link], float(second))
        if link.sent > len(asked):
            asked.append(second)
        if second % 7 == 0 and link.probing:
            health.answered(link, worker_messages.Probed(), others=False)
    assert asked == [20, 40, 60, 80]


def test_busy_workers_are_not_asked(health: TokenHealth) -> None:
    link: Any = Link()
    link.jobs[1] = object()
    for second in range(100):
        link.moved_at = float(second)
        health.ask_idle([link], float(second))
    assert link.sent == 0


def test_one_failed_answer_among_workers_that_pass_moves_nothing(health: TokenHealth, heard: Heard) -> None:
    link: Any = Link()
    health.answered(link, worker_messages.Probed("SessionHandleInvalid"), others=True)
    assert not health.refusing
    health.answered(link, worker_messages.Probed("DeviceRemoved"), others=False)
    assert health.refusing
    assert heard.moves() == [False]
