"""A pause of jobs while a key is made: a worker that uses one while objects are made reads the token twice, 0.2 s each time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from hsmd.daemon.front.tokens.token_workers import TokenWorkers

PAUSE_S = 0.1
"""Longest pause. With SoftHSM a key is made in 5 ms, on a busy machine in 100 ms."""
IDLE_S = 0.05
"""The longest part of it in which workers do what they were given before."""


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

    async def begin(self) -> None:
        """Pause, and return when the workers have done what they were given, or after IDLE_S."""
        self.end()
        self._timer = asyncio.get_running_loop().call_later(PAUSE_S, self.end)
        self._idle.clear()
        self.note_done()
        with suppress(TimeoutError):
            async with asyncio.timeout(IDLE_S):
                await self._idle.wait()

    def note_done(self) -> None:
        """Workers have done or lost jobs."""
        if not self._workers.in_hand:
            self._idle.set()

    def end(self) -> None:
        """End the pause if there is one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._go_on()
