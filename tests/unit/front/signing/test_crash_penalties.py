"""Crash penalties, crash attribution, and the comparison of store and token."""

from __future__ import annotations

import signal
from datetime import UTC, datetime
from typing import Any

import pytest

from hsmd.daemon.front.signing.crash_penalties import (
    CRASHES,
    FIRST_S,
    LONGEST_S,
    MAX_PAIRS,
    MEMORY_S,
    CrashPenalties,
)
from hsmd.daemon.front.tokens.crash_attribution import MAX_WAITING, CrashAttribution
from hsmd.daemon.front.tokens.jobs import Job
from hsmd.daemon.front.tokens.reconciliation import compare
from hsmd.daemon.ipc.worker_messages import NO_PRIVATE_KEY, KeyDescription

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


@pytest.mark.parametrize("order", [("lost", "ended"), ("ended", "lost")])
@pytest.mark.parametrize("by", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL, signal.SIGTERM, 0])
def test_a_crash_is_attributed_when_both_reports_arrive_in_any_order(order: tuple[str, str], by: int) -> None:
    found: list[Job] = []
    attribution = CrashAttribution(found.append)
    job: Any = object()
    for half in order:
        assert found == []
        if half == "lost":
            attribution.lost(7, job)
        else:
            attribution.ended(7, by)
    assert found == ([job] if by in (signal.SIGSEGV, signal.SIGABRT) else [])
    attribution.ended(7, signal.SIGSEGV)
    assert len(found) <= 1, "a reused pid belongs to another worker"


def test_a_crash_is_not_attributed_to_a_later_worker_with_the_same_pid() -> None:
    found: list[Job] = []
    attribution = CrashAttribution(found.append)
    job: Any = object()
    attribution.begun(7)
    attribution.ended(7, signal.SIGSEGV)  # this worker was idle
    attribution.begun(7)
    attribution.lost(7, job)
    attribution.ended(7, signal.SIGKILL)
    assert found == []


def test_unmatched_reports_are_discarded() -> None:
    attribution = CrashAttribution(lambda job: None)
    job: Any = object()
    for pid in range(3 * MAX_WAITING):
        attribution.lost(pid, job)
        attribution.ended(pid + 10_000, signal.SIGSEGV)
    assert len(attribution._jobs) <= MAX_WAITING
    assert len(attribution._crashes) <= MAX_WAITING


def test_differences_between_store_and_token_are_found() -> None:
    def described(digest: bytes, *warnings: str) -> KeyDescription:
        return KeyDescription(digest.hex(), "p-256", b"", ["tls-server"], "01", "", list(warnings))

    at = datetime.now(UTC)
    there, empty, foreign = b"\3" * 32, b"\4" * 32, b"\5" * 32
    found = compare(
        {KEY: "gone", there: "there", empty: "empty"},
        [described(there, "extractable"), described(empty, NO_PRIVATE_KEY), described(foreign)],
        at,
    )
    assert found.missing == ("empty", "gone")
    assert found.unknown == (foreign.hex(),)
    assert found.at == at
