"""The local connections of all users: what each user may hold and may still cost, and draining them all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from hsmd.agent.waiting import Line
from hsmd.system.accounts import SECOND, Tariff
from hsmd.system.intake import Intake, Intakes, Loop

MAX_CONNECTIONS = 8_192
MAX_CONNECTIONS_OF_USER = 2_048
MAX_OPEN_OF_USER = 256
"""Open requests of one user: half of what a daemon accepts by default, so that one user cannot block the others."""
MAX_OPEN = 4_096
"""More open requests than any daemon accepts from one client by default."""
MAX_HELD_OF_USER = 8 << 20
"""Bytes of one user that were read and not handled: half frames, and frames that wait for their turn."""
MAX_UNREAD_OF_USER = 16 << 20
"""Bytes of answers that one user has not read."""
READ_BYTES = 16 << 10
"""Most bytes read from a connection at a time: about a hundred requests for a signature."""

RETRY_S = 0.020
"""After this time a user with too many connections or open requests may try again."""

TARIFF = Tariff(
    share=0.6 * SECOND,
    burst=0.1 * SECOND,
    turn=500.0,
    byte=0.002,
    frame=20.0,
    refusal=80.0,
    control_request=1_000.0,
    key_operation=4.0,
    packet=100.0,
)
"""What a local user pays (hsmd/system/accounts.py). What no server needs in numbers costs seven times the processor's time that
it takes: a ping takes 2.5 us, a read 15 us, a refused operation 12 us, a control request 150 us. What servers do costs less than
it takes, because daemon and token limit its rate: a server may make more operations and short connections in a second than an
agent can forward, and is bounded only in each turn of the event loop."""
CONNECTION = 100.0
"""Price of a connection, in microseconds."""
ASKED_OF_DAEMON = 5_000.0
"""Price of a request that the agent passes to the daemon, where all its users share one account."""
REFUSED_BY_DAEMON = 1_000.0
"""Price of an operation that the daemon refused: its account is one for all users of the agent, and pays much more for that than
for an operation."""
BROKEN = 5_000.0
"""Price of a connection that is ended because of what the user sent: it takes a line of the agent's log."""
UNUSED_CONNECTION = 1_000.0
"""Price of a connection that ends without an operation: no server needs many of them."""
LEAST_WINDOW = 16
"""Operations that users may have open at a daemon which refuses more, together."""
AT_DAEMON_BESIDE_OTHERS = 16
"""Operations that a user has at a daemon at a time while other users make some, too: they keep a token busy."""
BESIDE_OTHERS_S = 1.0
"""How long a user counts as making operations after one."""


class Connected(Protocol):
    """The session of one connection."""

    def check(self, now: float) -> None: ...
    def drain(self, grace_ms: int) -> None: ...
    def close(self) -> None: ...


class LocalUser:
    """What one user of this host holds at the agent, over all its connections."""

    __slots__ = ("connections", "held", "intake", "line", "open_requests", "uid", "unread")

    def __init__(self, uid: int, intake: Intake, line: Line) -> None:
        self.uid = uid
        self.intake = intake
        """Its account, and its part of each turn of the event loop."""
        self.connections = 0
        self.open_requests = 0
        """At daemons, and waiting for one."""
        self.line = line
        """Its operations that wait."""
        self.held = 0
        """Bytes that were read and not handled."""
        self.unread = 0
        """Bytes of answers that wait in this process because the user does not read them."""


class Sessions:
    """All sessions and what their users hold. `drained` is set once, after `drain`, no request is open."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, loop: Loop | None = None) -> None:
        """`loop`: see `Intakes`."""
        self.clock = clock
        self.draining = False
        self.drained = asyncio.Event()
        self.open_requests = 0
        self._window = float(MAX_OPEN)
        """How many operations the daemon takes at a time, learned from what it refuses."""
        self._users_with_open = 0
        self._latest_uid = -1
        """The user that has opened the latest request."""
        self._shared_until = 0.0
        self.read_buffer = memoryview(bytearray(READ_BYTES))
        """All connections are read into this buffer, one after the other."""
        self._intakes = Intakes(TARIFF, clock, loop)
        self._users: dict[int, LocalUser] = {}
        self._connections = 0
        self._all: set[Connected] = set()

    def admit(self, uid: int) -> LocalUser | None:
        """Count a new connection of this user, which `release` must follow; None, without counting it, if there are too many."""
        user = self._users.get(uid)
        held = 0 if user is None else user.connections
        if self._connections >= MAX_CONNECTIONS or held >= MAX_CONNECTIONS_OF_USER:
            return None
        if user is None:
            user = self._users[uid] = LocalUser(uid, self._intakes.join(uid), Line(self.clock))
        user.connections += 1
        self._connections += 1
        return user

    def release(self, user: LocalUser) -> None:
        """An admitted connection has ended."""
        self._connections -= 1
        user.connections -= 1
        self._forget(user)

    def add(self, session: Connected) -> None:
        """The session of an admitted connection begins."""
        self._all.add(session)

    def remove(self, session: Connected) -> None:
        """It has ended."""
        self._all.discard(session)

    def count(self, user: LocalUser, change: int) -> None:
        """Change the number of a user's open requests."""
        before, user.open_requests = user.open_requests, user.open_requests + change
        self._users_with_open += bool(user.open_requests) - bool(before)
        self.open_requests += change
        if change > 0:
            self._note_use(user.uid)
        elif user.line:
            user.line.go_on(lambda: self.may_send(user))
        if not user.connections:
            self._forget(user)
        self._check_drained()

    def _forget(self, user: LocalUser) -> None:
        """Forget a user that has neither connections nor requests that a daemon works for."""
        if not user.connections and not user.open_requests:
            del self._users[user.uid]
            self._intakes.leave(user.uid)

    # --- the daemon's capacity, which all users share ---

    def may_open(self, user: LocalUser) -> bool:
        """Whether one more operation of this user may be sent: there is room, or the user has less open than its equal part."""
        if self.open_requests < self._window:
            return True
        users = self._users_with_open + (not user.open_requests)
        return user.open_requests < self._window / users

    def _note_use(self, uid: int) -> None:
        if uid != self._latest_uid:
            if self._latest_uid >= 0:
                self._shared_until = self.clock() + BESIDE_OTHERS_S
            self._latest_uid = uid

    def may_send(self, user: LocalUser) -> bool:
        """Whether an operation of this user may go to a daemon now, or has to wait: other users do not wait for many of one."""
        return (
            user.open_requests - len(user.line) < AT_DAEMON_BESIDE_OTHERS
            or self.clock() >= self._shared_until
        )

    def overloaded(self) -> None:
        """The daemon refused an operation because it has too many."""
        self._window = max(LEAST_WINDOW, min(self._window, self.open_requests) * 0.8)

    def served(self) -> None:
        """The daemon has carried out an operation."""
        if self._window < MAX_OPEN:
            self._window += 0.25

    def check(self) -> None:
        """Enforce the time limits; called about once a second."""
        now = self.clock()
        for session in list(self._all):
            session.check(now)
        for user in list(self._users.values()):
            user.line.expire()

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
        """The number of connections."""
        return self._connections
