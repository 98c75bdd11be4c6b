"""News of one daemon: which keys have another certificate, learnt from its events."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from hsmd.client.connection import Connection
from hsmd.errors import HsmdError, Overloaded
from hsmd.protocol.messages import MISSED, NOW, Event

REPLACED = "certificate.replaced"
AGAIN_S = 300.0
"""After this time, or half as long again at most, a daemon is asked again that has no place for another follower, or that is of
an earlier release and has no events. Until then the agent compares all its keys now and then, as it does anyway."""


class News:
    """Follows the events of a daemon until `close`. `replaced(name)` is called for a key, `missed()` when others were missed."""

    def __init__(
        self, connection: Connection, replaced: Callable[[str], None], missed: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._replaced = replaced
        self._missed = missed
        self._cursor = NOW
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        """Follow no more."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _keep(self) -> None:
        while True:
            try:
                async for event in self._connection.events(self._cursor, waiting=_give_up):
                    self._notice(event)
                    self._cursor = event.id
            except HsmdError:
                await asyncio.sleep(AGAIN_S * random.uniform(1, 1.5))
                self._missed()

    def _notice(self, event: Event) -> None:
        if event.kind == REPLACED:
            self._replaced(event.subject)
        elif event.kind == MISSED:
            self._missed()


def _give_up(error: HsmdError) -> None:
    """Other errors pass by themselves, and the connection makes the request again."""
    if isinstance(error, Overloaded):
        raise error
