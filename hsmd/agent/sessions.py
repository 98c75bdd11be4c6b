"""The local connections of all users: how many connections and open requests each user may hold, and draining them all."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

MAX_CONNECTIONS = 8_192
MAX_CONNECTIONS_OF_USER = 2_048
MAX_OPEN_OF_USER = 256
"""Open requests of one user: half of what a daemon accepts by default, so that one user cannot block the others."""


class Connected(Protocol):
    """The session of one connection."""

    def check(self, now: float) -> None: ...
    def drain(self, grace_ms: int) -> None: ...
    def close(self) -> None: ...


class Sessions:
    """All sessions and what their users hold. `drained` is set once, after `drain`, no request is open."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.draining = False
        self.drained = asyncio.Event()
        self.open_requests: Counter[int] = Counter()
        self._connections: Counter[int] = Counter()
        self._all: set[Connected] = set()

    def admit(self, session: Connected, uid: int) -> bool:
        """Count a new connection of this user; return False, without counting it, if there are too many."""
        if len(self._all) >= MAX_CONNECTIONS or self._connections[uid] >= MAX_CONNECTIONS_OF_USER:
            return False
        self._all.add(session)
        self._connections[uid] += 1
        return True

    def remove(self, session: Connected, uid: int) -> None:
        """An admitted connection has ended."""
        self._all.discard(session)
        self._connections[uid] -= 1
        if not self._connections[uid]:
            del self._connections[uid]

    def count(self, uid: int, change: int) -> None:
        """Change the number of a user's open requests."""
        self.open_requests[uid] += change
        if not self.open_requests[uid]:
            del self.open_requests[uid]
            self._check_drained()

    def check(self) -> None:
        """Enforce the time limits; called about once a second."""
        now = self.clock()
        for session in list(self._all):
            session.check(now)

    def drain(self, grace_ms: int) -> None:
        """Refuse new requests, and announce to all clients that the agent stops."""
        self.draining = True
        for session in list(self._all):
            session.drain(grace_ms)
        self._check_drained()

    def close(self) -> None:
        """End every connection."""
        for session in list(self._all):
            session.close()

    def _check_drained(self) -> None:
        if self.draining and not self.open_requests:
            self.drained.set()

    def __len__(self) -> int:
        return len(self._all)
