"""The pools of all tokens, and the change-over to new workers when a token's settings have changed.

A token whose settings changed gets workers of a new generation, in their own pool. Once one of them is ready, that pool takes
over, and the old one completes the jobs it has. Until then the old workers go on; permanently, if the new settings are wrong.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hsmd import observe
from hsmd.daemon.config.settings import TokenConfig
from hsmd.daemon.front.tokens.circuit_breaker import HealthListener
from hsmd.daemon.front.tokens.pool import Completion, Job, TokenPool
from hsmd.daemon.ipc.launcher_messages import WorkerEnded, WorkerStarted
from hsmd.daemon.store.contents import Difference

WORKER_WINDOW = 32
"""Jobs a worker holds at a time: enough to keep it busy between two wake-ups, few enough to lose little with it."""
CHECK_S = 0.05
"""How often the pool of a new generation is checked while there is one."""
NEW_KEY = timedelta(minutes=10)
"""A key of the store that was made within this time is new; it may have been made by a daemon whose clock differs."""
HANDED_OVER_S = 60.0
"""Time for the jobs of the old generation: the longest deadline there is."""

log = observe.logger()


@dataclass(frozen=True, slots=True)
class _Generation:
    """A pool and the number of its workers' settings; 0 before the first of them was attached."""

    number: int
    pool: TokenPool


class TokenPools:
    """Makes, replaces and closes pools. `pools` holds those to use, by name of the token."""

    def __init__(
        self,
        *,
        max_queue: int,
        request_replacement: Callable[[int], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """For the parameters see `TokenPool`. Call `report_to` before `apply`."""
        self._max_queue = max_queue
        self._now = now
        self._request_replacement = request_replacement
        self._settings: dict[str, TokenConfig] = {}
        self._current: dict[str, _Generation] = {}
        self._coming: dict[str, _Generation] = {}
        self._expected = asyncio.Event()
        """Set while a generation is coming."""
        self._closing: set[asyncio.Task[None]] = set()
        self.pools: dict[str, TokenPool] = {}

    def report_to(
        self,
        completed: Callable[[list[Completion]], None],
        crashed: Callable[[Job], None],
        listener: HealthListener,
    ) -> None:
        """Have all pools report completions, crashes and the health of tokens to these; see `TokenPool`."""
        self._completed = completed
        self._crashed = crashed
        self._listener = listener

    def apply(self, tokens: Sequence[TokenConfig]) -> None:
        """Serve these tokens: make pools for new ones, and close those of tokens that are not among them.

        New pools are in the order of `tokens`: the daemon's own keys are made in the first one.
        """
        self._settings = {token.name: token for token in tokens}
        for name in [name for name in self._settings if name not in self._current]:
            self._use(name, _Generation(0, self._pool(name)))
        for name in self._current.keys() - self._settings.keys():
            self._close_later(self._current.pop(name).pool, HANDED_OVER_S)
            del self.pools[name]
            self._drop_coming(name)

    def is_ready(self, name: str) -> bool:
        """Whether the token of this name is served and can be used now."""
        pool = self.pools.get(name)
        return pool is not None and pool.is_ready

    def attach(self, worker: WorkerStarted, descriptors: Sequence[int]) -> None:
        """Take over a worker that the launcher has started, with its stream socket and progress page."""
        name, number = worker.token, worker.generation
        stream, progress_fd = descriptors
        current = self._current.get(name)
        if current is not None and current.number == 0:
            self._current[name] = current = _Generation(number, current.pool)
        if current is None or number < current.number:
            os.close(stream)
            os.close(progress_fd)
            return
        pool = current.pool if number == current.number else self._coming_pool(name, number)
        pool.attach(socket.socket(fileno=stream), progress_fd, worker.pid, worker.control)

    def ended(self, worker: WorkerEnded) -> None:
        """Tell the token's pools that a worker has ended."""
        for generations in (self._current, self._coming):
            if worker.token in generations:
                generations[worker.token].pool.ended(worker.pid, worker.signal)

    def hold(self, name: str, reason: str) -> None:
        """Logins to this token are stopped for this reason; empty when they are allowed again."""
        for generations in (self._current, self._coming):
            if name in generations:
                generations[name].pool.hold(reason)

    def try_login(self, name: str) -> None:
        """Have one worker of this token start anew, unless one is missing and will."""
        for generations in (self._current, self._coming):
            if name in generations:
                generations[name].pool.try_login()

    def wait(self, name: str, reason: str) -> None:
        """No worker of this token is started for this reason, until one is."""
        for generations in (self._current, self._coming):
            if name in generations:
                generations[name].pool.wait(reason)

    def starting(self, name: str) -> bool:
        """Whether a worker of this token has been started and is not ready yet: it may be logging in."""
        found = [
            generations[name].pool for generations in (self._current, self._coming) if name in generations
        ]
        return any(worker.state == "starting" for pool in found for worker in pool.status().workers)

    def store_changed(self, difference: Difference) -> None:
        """Tell workers of keys that other daemons have made, so that no signature waits until a worker looks for its key."""
        if difference.whole:
            return
        new_since = self._now() - NEW_KEY
        for key in difference.keys.values():
            if key is None:
                self._note_change()
                continue
            if key.created_at < new_since:
                continue
            for generations in (self._current, self._coming):
                if key.token in generations:
                    generations[key.token].pool.note_new_key(key.digest.hex())

    def _note_change(self) -> None:
        """A key was removed from the store, so it may have been destroyed in its token."""
        for generations in (self._current, self._coming):
            for generation in generations.values():
                generation.pool.note_change()

    async def follow(self) -> None:
        """Let each new generation take over as soon as it is ready; runs until cancelled."""
        while True:
            await self._expected.wait()
            await asyncio.sleep(CHECK_S)
            for name, coming in list(self._coming.items()):
                if coming.pool.status().state == "ready":
                    del self._coming[name]
                    before = self._current[name].pool
                    self._use(name, coming)
                    self._close_later(before, HANDED_OVER_S)
                    log.info("token.taken_over", token=name, count=coming.number)
            if not self._coming:
                self._expected.clear()

    async def close(self, grace_s: float) -> None:
        """Close all pools."""
        for task in self._closing:
            task.cancel()
        pools = [each.pool for each in (*self._current.values(), *self._coming.values())]
        await asyncio.gather(*(pool.close(grace_s) for pool in pools), *self._closing, return_exceptions=True)

    def _pool(self, name: str) -> TokenPool:
        settings = self._settings[name]
        return TokenPool(
            name,
            window=WORKER_WINDOW,
            max_queue=self._max_queue,
            stall_s=settings.stall_ms / 1000,
            clock=time.monotonic,
            request_replacement=self._request_replacement,
            completed=self._completed,
            log=log,
            probe_s=settings.probe_s,
            workers=settings.workers,
            spare=settings.spare,
            recycle_after_operations=settings.recycle_after_operations,
            recycle_after_s=settings.recycle_after_s,
            listener=self._listener,
            crashed=self._crashed,
        )

    def _use(self, name: str, generation: _Generation) -> None:
        self._current[name] = generation
        self.pools[name] = generation.pool

    def _coming_pool(self, name: str, number: int) -> TokenPool:
        """The pool of a generation that has not taken over yet. A newer one replaces one that never got ready."""
        coming = self._coming.get(name)
        if coming is None or coming.number < number:
            self._drop_coming(name)
            coming = self._coming[name] = _Generation(number, self._pool(name))
            self._expected.set()
        return coming.pool

    def _drop_coming(self, name: str) -> None:
        coming = self._coming.pop(name, None)
        if coming is not None:
            self._close_later(coming.pool, 0.0)

    def _close_later(self, pool: TokenPool, grace_s: float) -> None:
        task = asyncio.get_running_loop().create_task(pool.close(grace_s))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
