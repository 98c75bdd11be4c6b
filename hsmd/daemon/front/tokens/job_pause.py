"""A pause of jobs while a key is made: a worker that uses one while objects are made reads the token twice, 0.2 s each time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from hsmd.daemon.front.tokens.token_workers import TokenWorkers

PAUSE_S = 0.1
"""Longest pause while a key is made. With SoftHSM this takes 5 ms, on a busy machine 100 ms."""
IDLE_S = 0.05
"""Longest pause before it, in which workers do what they were given."""


class JobPause:
    """Whether workers are given jobs. Call everything from the event loop."""

    def __init__(self, workers: TokenWorkers, go_on: Callable[[], None]) -> None:
        """`go_on` is called when a pause has ended."""
        self._workers = workers
        self._go_on = go_on
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()

    @property
    def active(self) -> bool:
        """Whether no jobs are to be handed out now."""
        return self._timer is not None

    @asynccontextmanager
    async def for_a_key(self) -> AsyncIterator[None]:
        """Pause for the block, PAUSE_S at most, once the workers have done what they were given, or after IDLE_S."""
        self._pause(IDLE_S + PAUSE_S)
        try:
            self._idle.clear()
            self.note_done()
            with suppress(TimeoutError):
                async with asyncio.timeout(IDLE_S):
                    await self._idle.wait()
            self._pause(PAUSE_S)
            yield
        finally:
            self._end()

    def note_done(self) -> None:
        """Workers have done or lost jobs."""
        if not self._workers.in_hand:
            self._idle.set()

    def _pause(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._end)

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._go_on()
