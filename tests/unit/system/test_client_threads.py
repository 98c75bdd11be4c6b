"""Threads for clients: one of each at a time, in turn, no more of the time than a share, and nothing begun for who has gone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from hsmd.protocol import messages
from hsmd.system.client_threads import TARIFF, ClientThreads, in_thread
from hsmd.system.control_requests import ControlRequests
from hsmd.system.intake import Intakes, paying
from tests.support.polling import eventually


class Calls:
    """Calls that wait until the test lets one after the other end; `begun` are their names in the order of their begin."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._ends: dict[str, threading.Event] = {}

    def make(self, name: str) -> Callable[[], str]:
        ends = self._ends[name] = threading.Event()

        def call() -> str:
            self.begun.append(name)
            assert ends.wait(20)
            return name

        return call

    def end(self, name: str) -> None:
        self._ends[name].set()

    def end_all(self) -> None:
        for ends in self._ends.values():
            ends.set()


@pytest.fixture
def calls() -> Any:
    made = Calls()
    yield made
    made.end_all()


def start(threads: ClientThreads, calls: Calls, *names: str) -> list[asyncio.Task[str]]:
    """The client of a call is the first letter of its name."""
    return [asyncio.create_task(threads.run(name[0], calls.make(name))) for name in names]


async def test_one_call_of_each_client_runs_at_a_time_and_clients_take_turns(calls: Calls) -> None:
    threads = ClientThreads(2)
    start(threads, calls, "a1", "a2", "a3", "a4", "b1", "b2", "c1")
    await eventually(lambda: calls.begun == ["a1", "b1"])
    calls.end("a1")
    await eventually(lambda: calls.begun == ["a1", "b1", "c1"])
    calls.end("c1")
    await eventually(lambda: calls.begun == ["a1", "b1", "c1", "a2"])


async def test_a_call_that_was_cancelled_before_its_begin_never_begins(calls: Calls) -> None:
    threads = ClientThreads(2)
    first, second, third = start(threads, calls, "a1", "a2", "a3")
    await eventually(lambda: calls.begun == ["a1"])
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    calls.end("a1")
    await eventually(lambda: calls.begun == ["a1", "a3"])
    calls.end("a3")
    assert (await first, await third) == ("a1", "a3")


async def test_a_call_that_runs_keeps_its_thread_when_its_caller_has_gone(calls: Calls) -> None:
    threads = ClientThreads(1)
    first, _ = start(threads, calls, "a1", "b1")
    await eventually(lambda: calls.begun == ["a1"])
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    for _ in range(20):
        await asyncio.sleep(0)
    assert calls.begun == ["a1"]
    calls.end("a1")
    await eventually(lambda: calls.begun == ["a1", "b1"])


async def test_errors_reach_their_callers_and_clients_are_forgotten() -> None:
    now = 0.0
    threads = ClientThreads(clock=lambda: now)

    def fault() -> None:
        raise ZeroDivisionError

    for number in range(20):
        with pytest.raises(ZeroDivisionError):
            await threads.run(number, fault)
        now += 1.0
    assert len(threads) <= 2


async def test_a_client_beyond_its_share_of_the_time_waits_and_others_do_not() -> None:
    now, worked = 0.0, 0.0

    def work(seconds: float) -> None:
        nonlocal worked
        worked += seconds

    threads = ClientThreads(1, clock=lambda: now, work_time=lambda: worked)
    await threads.run("a", lambda: work(TARIFF.burst / 1e6 + 0.01))
    late = asyncio.create_task(threads.run("a", lambda: work(0)))
    for _ in range(20):
        await threads.run("b", lambda: work(0))
    assert not late.done()
    now += 1.0
    await late


async def test_only_what_works_for_a_client_runs_in_its_threads() -> None:
    def name() -> str:
        return threading.current_thread().name

    assert not (await in_thread(name)).startswith("client")
    intake = Intakes(TARIFF, lambda: 0.0, threads=ClientThreads()).join("web")

    async def carry_out(request: messages.Request, timeout_s: float) -> messages.Done:
        names.append(await in_thread(name))
        return messages.Done()

    names: list[str] = []
    answers: list[bytes] = []
    requests = ControlRequests(carry_out, answers.append, intake=intake)
    requests.start(1, 5_000, messages.encode_request(messages.WhoAmI()))
    await eventually(lambda: answers)
    assert names[0].startswith("client")
    assert paying.get() is None
