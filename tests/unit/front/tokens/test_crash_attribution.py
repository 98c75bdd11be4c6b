"""Crash attribution: the job of a lost worker and the signal that ended it are matched, in any order."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from hsmd.daemon.front.tokens.crash_attribution import MAX_WAITING, CrashAttribution
from hsmd.daemon.front.tokens.jobs import Job


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
