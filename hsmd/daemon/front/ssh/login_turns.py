"""Turns of connections that have not logged in: one packet of one of them in each turn of the event loop.

A login costs milliseconds, most of it in a few packets. When a thousand agents come back at once, requests of those that are
logged in get their turn between any two packets of the others. Sources (`sources.py`) get turns alike, however many connections
they have.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Protocol


class Loop(Protocol):
    """What is needed of an event loop."""

    def call_soon(self, callback: Callable[[], object]) -> Any: ...


class LoginTurns:
    """Which of the connections that await their login may have a packet handled."""

    def __init__(self, loop: Callable[[], Loop]) -> None:
        self._loop = loop
        self._taken = False
        self._resuming = False
        self._waiting: OrderedDict[str, deque[Callable[[], None]]] = OrderedDict()

    def take(self) -> bool:
        """Whether a packet may be handled in this turn of the loop; if not, the caller has to `wait`."""
        if self._taken or (self._waiting and not self._resuming):
            return False
        self._taken = True
        if not self._resuming:
            self._loop().call_soon(self._next)
        return True

    def wait(self, source: str, resume: Callable[[], None]) -> None:
        """Call `resume` in a turn of this source, which may then `take` one packet. The caller waits only once at a time."""
        self._waiting.setdefault(source, deque()).append(resume)
        if not self._taken and not self._resuming:
            self._taken = True
            self._loop().call_soon(self._next)

    def _next(self) -> None:
        """The next turn: of the source that has waited longest."""
        self._taken = False
        if not self._waiting:
            return
        source, waiting = self._waiting.popitem(last=False)
        resume = waiting.popleft()
        if waiting:
            self._waiting[source] = waiting
        self._resuming = True
        try:
            resume()
        finally:
            self._resuming = False
            self._taken = True
            self._loop().call_soon(self._next)
