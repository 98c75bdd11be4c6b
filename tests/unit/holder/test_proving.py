"""Requests of owners to a daemon that limits how often it is asked."""

from __future__ import annotations

from typing import Any

import pytest

from hsmd.errors import Overloaded
from hsmd.holder.proving import PATIENCE_S, Patient
from hsmd.protocol.messages import Request, WhoAmI


class Busy:
    """A daemon that refuses so many requests."""

    channel_binding = b"channel"

    def __init__(self, refusals: int, retry_s: float) -> None:
        self.refusals = refusals
        self.asked: list[Request] = []
        self._retry_s = retry_s

    def control(self, request: Request, *, timeout_s: float = 15.0) -> Any:
        self.asked.append(request)
        if len(self.asked) <= self.refusals:
            raise Overloaded.retry_in(self._retry_s)
        return "done", timeout_s


def test_what_is_refused_for_a_moment_is_asked_again() -> None:
    daemon, slept = Busy(3, 0.1), list[float]()
    patient = Patient(daemon, slept.append)
    assert patient.control(WhoAmI(), timeout_s=3.0) == ("done", 3.0)
    assert (slept, len(daemon.asked), patient.channel_binding) == ([0.1] * 3, 4, b"channel")


def test_patience_ends() -> None:
    daemon, slept = Busy(1_000, 4.0), list[float]()
    with pytest.raises(Overloaded):
        Patient(daemon, slept.append).control(WhoAmI())
    assert sum(slept) <= PATIENCE_S and len(daemon.asked) == len(slept) + 1 > 5
