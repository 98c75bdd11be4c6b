"""Requests to the control worker of one token: lists in pages, and changes of which the signing workers are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext, suppress
from typing import Any

from msgspec.structs import replace

from hsmd.daemon.front.tokens.control_channel import ControlChannel
from hsmd.daemon.front.tokens.job_pause import JobPause
from hsmd.daemon.front.tokens.key_announcements import KeyAnnouncements
from hsmd.daemon.front.tokens.token_changes import TokenChanges, is_quick_change
from hsmd.daemon.front.tokens.token_workers import TokenWorkers
from hsmd.daemon.ipc.worker_messages import (
    Adopt,
    Candidates,
    Describe,
    Destroy,
    Generate,
    TokenRequest,
    Unwrap,
)
from hsmd.errors import DeadlineExceeded

PAGE_S = 10.0
"""Each page of a list gets this long: a worker that does not answer in time is taken for one that hangs."""


class TokenRequests:
    """What the control worker is asked to do. Call everything from the event loop."""

    def __init__(
        self,
        control: ControlChannel,
        workers: TokenWorkers,
        changes: TokenChanges,
        keys: KeyAnnouncements,
        clock: Callable[[], float],
        pause: JobPause,
    ) -> None:
        """`clock` is monotonic."""
        self._control = control
        self._workers = workers
        self._changes = changes
        self._keys = keys
        self._clock = clock
        self._pause = pause

    async def carry_out(self, request: TokenRequest, timeout_s: float) -> Any:
        """One request, one at a time. Returns `request.Result`. Raises as `TokenPool.control`."""
        ends = self._clock() + timeout_s
        with self._changes.made_by(request):
            pause = is_quick_change(request) and self._workers.have_many_keys()
            result = await self._control.ask(
                request, timeout_s, self._pause.for_a_key if pause else nullcontext
            )
            self._workers.note_progress()  # what has ended by now has not used what is new
        match request:
            case Generate(reserve=False) | Adopt() | Unwrap(keep=True):
                await self._announce(result.key, ends - self._clock())
            case Destroy():
                self._keys.destroyed(request.key)
        return result

    async def pages(self, request: Describe | Candidates, timeout_s: float) -> AsyncIterator[list[Any]]:
        """A list, page by page; other requests are carried out in between. Raises as `TokenPool.pages`."""
        ends = self._clock() + timeout_s
        while True:
            answer = await self.carry_out(request, max(ends - self._clock(), PAGE_S))
            yield answer.keys
            if not answer.cursor:
                return
            if self._clock() >= ends:
                raise DeadlineExceeded("the list of keys was not complete in time")
            request = replace(request, cursor=answer.cursor)

    def note_new_key(self, key: str) -> None:
        """The store has a new key (digest in hex): tell the workers, unless they were told when it was made here."""
        if not self._keys.knows(key):
            self._changes.note()
            self._keys.made([key])

    async def _announce(self, key: str, timeout_s: float) -> None:
        """Tell the workers of a new key, and wait until they serve it; those that take longer than this serve it later."""
        self._keys.made([key])
        with suppress(TimeoutError):
            async with asyncio.timeout(max(timeout_s, 0)):
                await self._keys.until_told(key)
