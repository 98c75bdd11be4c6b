"""Threads for what clients ask for: few in all, one of each client at a time, and no more of its time than a share.

What a server does for itself has the default threads of the event loop, which no request of a client can occupy.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from hsmd.system.accounts import SECOND, Account, Tariff
from hsmd.system.intake import paying

THREADS = 4
TARIFF = Tariff(share=0.1 * SECOND, burst=0.5 * SECOND)
"""Threads take the interpreter from key operations, so each client has a share of the time; a few pages always fit into it."""

R = TypeVar("R")


class ClientThreads:
    """Runs calls for clients in threads, in turn."""

    def __init__(
        self,
        threads: int = THREADS,
        *,
        clock: Callable[[], float] = time.monotonic,
        work_time: Callable[[], float] = time.thread_time,
    ) -> None:
        """`work_time` tells how long the current thread has used a processor, in seconds."""
        self._free = threads
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="client")
        self._clock = clock
        self._work_time = work_time
        self._lanes: dict[Hashable, _Lane] = {}
        """The clients with calls that wait or run, and those whose shares are used up; whose turn is next comes first."""
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._lanes)

    async def run(self, client: Hashable, call: Callable[[], R]) -> R:
        """Run a call for a client.

        If the caller is cancelled before the call has begun, it never begins. After that it goes on, and keeps its thread.
        """
        lane = self._lanes.get(client)
        if lane is None:
            lane = self._lanes[client] = _Lane(Account(TARIFF, self._clock()))
        done: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        waiting = call, done
        lane.waiting.append(waiting)
        self._start()
        try:
            return await done
        except asyncio.CancelledError:
            with suppress(ValueError):
                lane.waiting.remove(waiting)
            raise

    def _start(self) -> None:
        """Begin what may run now: one call of each client, and none of a client that has used up its share."""
        now, next_s = self._clock(), 0.0
        for client, lane in list(self._lanes.items()):
            if lane.running or not lane.waiting:
                if not lane.running and lane.account.is_full(now):
                    del self._lanes[client]
                continue
            if wait_s := lane.account.recovery_s(now):
                next_s = min(next_s, wait_s) if next_s else wait_s
            elif self._free:
                self._begin(client, lane)
        if next_s and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(next_s, self._start_again)

    def _start_again(self) -> None:
        self._timer = None
        self._start()

    def _begin(self, client: Hashable, lane: _Lane) -> None:
        call, done = lane.waiting.popleft()
        self._free -= 1
        lane.running = True
        loop = asyncio.get_running_loop()

        def work() -> None:
            began = self._work_time()
            try:
                finish = partial(_finish, done, call())
            except BaseException as error:
                finish = partial(_fail, done, error)
            cost = (self._work_time() - began) * SECOND
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._ended, client, cost, finish)

        self._threads.submit(work)

    def _ended(self, client: Hashable, cost: float, finish: Callable[[], None]) -> None:
        self._free += 1
        lane = self._lanes[client] = self._lanes.pop(client)  # behind the others
        lane.running = False
        lane.account.spend(cost, self._clock())
        finish()
        self._start()


class _Lane:
    """The calls of one client."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.waiting: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self.running = False


def _finish(done: asyncio.Future[R], result: R) -> None:
    if not done.done():
        done.set_result(result)


def _fail(done: asyncio.Future[Any], error: BaseException) -> None:
    if not done.done():
        done.set_exception(error)


async def in_thread(call: Callable[..., R], *arguments: Any, **named: Any) -> R:
    """As `asyncio.to_thread`, but in the threads for clients if the current task works for one."""
    intake = paying.get()
    if intake is None or intake.threads is None:
        return await asyncio.to_thread(call, *arguments, **named)
    result: R = await intake.threads.run(intake, partial(call, *arguments, **named))
    return result
