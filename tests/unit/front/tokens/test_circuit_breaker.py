"""The circuit breaker: all sequences of probe results, and the token health that drives it."""

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


def apply(breaker: CircuitBreaker, event: str) -> None:
    if event == "begin":
        breaker.begin()
    elif event == "passed":
        breaker.passed()
    else:
        breaker.failed("why", others=event == "failed-among-others")


@pytest.mark.parametrize("length", [1, 3, 6])
def test_all_sequences_follow_the_table(length: int) -> None:
    for events in itertools.product(EVENTS, repeat=length):
        breaker = CircuitBreaker()
        for event in events:
            expected = TABLE[breaker.state, event]
            apply(breaker, event)
            assert breaker.state is expected, events
            assert bool(breaker.reason) is (expected is not CLOSED), events
        if events[-1] == "passed":
            assert breaker.state is CLOSED


class Recorder:
    """Records the calls to a listener or a log."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *values, **fields: self.calls.append((name, *values))

    def moves(self) -> list[bool]:
        return [call[2] for call in self.calls if call[0] == "breaker_moved"]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def health(recorder: Recorder) -> TokenHealth:
    return TokenHealth("main", probe_s=20.0, listener=recorder, log=Recorder())


def test_the_listener_is_called_once_per_change(health: TokenHealth, recorder: Recorder) -> None:
    for _ in range(3):
        health.starting()
        health.not_started("gone", others=False)
    assert (health.refusing, health.reason) == (True, "gone")
    for _ in range(2):
        health.starting()
        health.ready()
    assert recorder.moves() == [False, True]
    assert (health.refusing, health.reason) == (False, "")


def test_three_workers_killed_at_start_open_the_breaker_and_fewer_do_not(
    health: TokenHealth, recorder: Recorder
) -> None:
    for _ in range(SILENT_STARTS - 1):
        health.ended_silently(others=False)
    assert not health.refusing
    health.ready()
    for _ in range(SILENT_STARTS):
        assert not health.refusing
        health.ended_silently(others=False)
    assert health.refusing
    assert recorder.moves() == [False]


def test_a_refused_login_does_not_open_the_breaker(health: TokenHealth, recorder: Recorder) -> None:
    health.login_refused("wrong PIN")
    assert health.state is CLOSED
    assert health.refusing
    assert ("login_refused", "main", "wrong PIN") in recorder.calls
    health.ready()
    assert not health.refusing


class Channel:
    """The channel of a worker that is probed."""

    def __init__(self) -> None:
        self.jobs: dict[int, object] = {}
        self.probing, self.probed_at, self.moved_at, self.sent = False, 0.0, 0.0, 0

    def send(self, data: bytes) -> None:
        assert worker_messages.PROBE in data
        self.sent += 1


def test_idle_workers_are_probed_at_the_interval_and_one_probe_at_a_time(health: TokenHealth) -> None:
    channel: Any = Channel()
    probed = []
    for second in range(100):
        health.ask_idle([channel], float(second))
        if channel.sent > len(probed):
            probed.append(second)
        if second % 7 == 0 and channel.probing:
            health.answered(channel, worker_messages.Probed(), others=False)
    assert probed == [20, 40, 60, 80]


def test_busy_workers_are_not_probed(health: TokenHealth) -> None:
    channel: Any = Channel()
    channel.jobs[1] = object()
    for second in range(100):
        channel.moved_at = float(second)
        health.ask_idle([channel], float(second))
    assert channel.sent == 0


def test_one_failed_probe_among_passing_workers_changes_nothing(
    health: TokenHealth, recorder: Recorder
) -> None:
    channel: Any = Channel()
    health.answered(channel, worker_messages.Probed("SessionHandleInvalid"), others=True)
    assert not health.refusing
    health.answered(channel, worker_messages.Probed("DeviceRemoved"), others=False)
    assert health.refusing
    assert recorder.moves() == [False]
