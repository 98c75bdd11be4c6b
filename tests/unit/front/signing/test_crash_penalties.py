"""Crash penalties: a client whose requests repeatedly crash workers is refused for one key, for a limited time."""

from __future__ import annotations

import pytest

from hsmd.daemon.front.signing.crash_penalties import (
    CRASHES,
    FIRST_S,
    LONGEST_S,
    MAX_PAIRS,
    MEMORY_S,
    CrashPenalties,
)

KEY, OTHER = b"\1" * 32, b"\2" * 32


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_after_two_crashes_only_this_pair_is_refused(clock: Clock) -> None:
    penalties = CrashPenalties(clock)
    for _ in range(CRASHES):
        assert not penalties.refuses("web", KEY)
        penalties.crashed("web", KEY)
    assert penalties.refuses("web", KEY)
    assert not penalties.refuses("web", OTHER)
    assert not penalties.refuses("mail", KEY)
    clock.now += FIRST_S
    assert not penalties.refuses("web", KEY)


def test_each_further_crash_doubles_the_penalty_up_to_a_limit_and_it_expires(clock: Clock) -> None:
    penalties = CrashPenalties(clock)
    lasts = [penalties.crashed("web", KEY) for _ in range(30)]
    assert lasts[:4] == [0.0, FIRST_S, FIRST_S * 2, FIRST_S * 4]
    assert lasts[-1] == LONGEST_S
    clock.now += LONGEST_S + MEMORY_S
    assert penalties.crashed("web", KEY) == 0.0


def test_an_acquittal_removes_the_penalty(clock: Clock) -> None:
    penalties = CrashPenalties(clock)
    penalties.crashed("web", KEY)
    penalties.crashed("web", KEY)
    penalties.acquitted("web", KEY)
    assert not penalties.refuses("web", KEY)
    penalties.acquitted("web", KEY)
    penalties.acquitted("web", KEY)
    assert not penalties.pairs
    assert penalties.crashed("web", KEY) == 0.0


def test_memory_is_bounded(clock: Clock) -> None:
    penalties = CrashPenalties(clock)
    for number in range(3 * MAX_PAIRS):
        penalties.crashed(f"client-{number}", KEY)
    assert len(penalties.pairs) == MAX_PAIRS
