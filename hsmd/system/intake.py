"""Intake: how much of what one client has sent is handled in a turn of the event loop, and in what order.

All connections of a client share its account, its part of each turn, and one queue, so that many connections get no more
than one and each of them gets its turn.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from contextvars import Context, ContextVar, copy_context
from itertools import islice
from typing import Any, Protocol

from hsmd.system.accounts import Account, Tariff

FRAMES_A_TURN = 256
"""Frames of one client handled in one turn of the loop: as many as a busy front end has under way."""
FRAMES_AT_A_TIME = 16
"""Frames handled before the account of a client is looked at again, if it is near its limit."""
MOST_HELD_BYTES = 32 << 20
"""Most that all connections of one client may make a server hold: frames that are not complete, and answers that are not read."""
SHORTEST_PAUSE_S = 0.005
"""How long a client is not read at least once its account is overdrawn: to pause and to resume cost time as well."""


class Loop(Protocol):
    """What is needed of an event loop."""

    def call_soon(self, callback: Callable[[], object]) -> Any: ...
    def call_later(self, delay: float, callback: Callable[[], object]) -> Any: ...


class Threads(Protocol):
    """Threads that work for clients; see `client_threads.py`."""

    async def run(self, client: Hashable, call: Callable[[], Any]) -> Any: ...


class Turns:
    """Numbers the turns of the event loop in which something is handled."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self._number = 0
        self._ends = False

    def current(self) -> int:
        """The number of this turn."""
        if not self._ends:
            self._ends = True
            self.loop.call_soon(self._end)
        return self._number

    def _end(self) -> None:
        self._number += 1
        self._ends = False


class Intake:
    """What the connections of one client may still have handled in this turn, and which of them wait for the next."""

    def __init__(
        self, account: Account, turns: Turns, clock: Callable[[], float], threads: Threads | None = None
    ) -> None:
        self.account = account
        self.threads = threads
        self.connections = 0
        """How many connections the client has; see `Intakes`."""
        self.control_requests = 0
        """How many control requests of the client are open; see `ControlRequests`."""
        self.held_bytes = 0
        """What is held for the client, as its connections count it; see `hold`."""
        self._turns = turns
        self._clock = clock
        self._turn = -1
        self._frames_left = 0
        self._cost_left = 0.0
        self._waiting: deque[Callable[[], None]] = deque()
        self._timer: Any = None
        self._resuming = False
        self._unpaid = False
        self.paused_s = 0.0
        """For how long this client was not read, all in all, because its account was overdrawn."""

    def frames_now(self) -> int:
        """How many frames may be handled now; 0 if the caller has to `wait`."""
        if self._waiting and not self._resuming:
            return 0
        return self._frames()

    def take_packet(self) -> bool:
        """Whether a packet may be handled now; if not, the caller has to `wait`. It is paid for with the next one."""
        if self._unpaid:
            self._unpaid = False
            self.spend(self.account.packet)
        self._unpaid = self.frames_now() > 0
        return self._unpaid

    def _frames(self) -> int:
        turn = self._turns.current()
        if turn != self._turn:
            self._turn, self._frames_left, self._cost_left = turn, FRAMES_A_TURN, self.account.turn
        if self._frames_left <= 0 or self._cost_left <= 0 or self.account.recovery_s(self._clock()) > 0:
            return 0
        return self._frames_left if self.account.ample else min(self._frames_left, FRAMES_AT_A_TIME)

    def charge(
        self,
        *,
        byte_count: int = 0,
        frames: int = 0,
        refusals: int = 0,
        control_requests: int = 0,
        key_operations: int = 0,
    ) -> None:
        """Charge what was handled (see `Account.charge`) to the account and to this turn.

        Nothing is charged for a packet that brought a key operation that was accepted.
        """
        if key_operations:
            self._unpaid = False
        self._frames_left -= frames + key_operations
        self._cost_left -= self.account.charge(
            self._clock(),
            byte_count=byte_count,
            frames=frames,
            refusals=refusals,
            control_requests=control_requests,
            key_operations=key_operations,
        )

    def spend(self, cost: float) -> None:
        """Charge what has no price in the tariff, in microseconds."""
        self._cost_left -= cost
        self.account.spend(cost, self._clock())

    def hold(self, change: int) -> bool:
        """Change the number of bytes that are held for the client; return False if they are too many."""
        self.held_bytes += change
        return self.held_bytes <= MOST_HELD_BYTES

    def wait(self, resume: Callable[[], None]) -> None:
        """Call `resume` once, when frames may be handled again. The caller reads nothing until then, and waits only once."""
        self._waiting.append(resume)
        if self._timer is None and not self._resuming:
            self._schedule()

    async def turn(self) -> None:
        """Return when something may be handled for the client."""
        if not self.frames_now():
            resumed = asyncio.Event()
            self.wait(resumed.set)
            await resumed.wait()

    def _schedule(self) -> None:
        loop = self._turns.loop
        pause_s = self.account.recovery_s(self._clock())
        if pause_s > 0:
            pause_s = max(pause_s, SHORTEST_PAUSE_S)
            self.paused_s += pause_s
            self._timer = loop.call_later(pause_s, self._resume)
        else:
            self._timer = loop.call_soon(self._resume)

    def _resume(self) -> None:
        """Let those that wait continue, each once, as far as the turn goes."""
        self._timer = None
        self._resuming = True
        try:
            for _ in range(len(self._waiting)):
                if not self._frames():
                    break
                self._waiting.popleft()()
        finally:
            self._resuming = False
            if self._waiting:
                self._schedule()


paying: ContextVar[Intake | None] = ContextVar("paying", default=None)
"""The client for which the current task works; None while a server works for itself."""


def for_all_clients() -> Context:
    """The context of a task that works for all clients: none of them pays, whichever client's request begins it."""
    context = copy_context()
    context.run(paying.set, None)
    return context


class Intakes:
    """The intakes of all clients that are connected, and of those that left before their accounts had recovered."""

    def __init__(
        self,
        tariff: Tariff,
        clock: Callable[[], float],
        loop: Loop | None = None,
        threads: Threads | None = None,
    ) -> None:
        """`loop`: the one that is running when the first client joins, if it is not given."""
        self._threads = threads
        self._tariff = tariff
        self._clock = clock
        self._turns = Turns(loop) if loop else None
        self._intakes: dict[Hashable, Intake] = {}
        self._left: dict[Hashable, None] = {}
        """Clients without a connection, in the order in which they left: to come again does not make an account full."""

    def __len__(self) -> int:
        return len(self._intakes)

    def join(self, client: Hashable) -> Intake:
        """The intake of a client, for one more connection; `leave` must follow."""
        intake = self._intakes.get(client)
        if intake is None:
            if self._turns is None:
                self._turns = Turns(asyncio.get_running_loop())
            account = Account(self._tariff, self._clock())
            intake = self._intakes[client] = Intake(account, self._turns, self._clock, self._threads)
        intake.connections += 1
        self._left.pop(client, None)
        return intake

    def leave(self, client: Hashable) -> None:
        """A connection of this client has ended."""
        intake = self._intakes[client]
        intake.connections -= 1
        if not intake.connections:
            self._left[client] = None
        self._forget_recovered()

    def _forget_recovered(self) -> None:
        """Forget up to two clients that left: more than one leaves at a time, so that their number does not grow."""
        now = self._clock()
        for client in list(islice(self._left, 2)):
            del self._left[client]
            if self._intakes[client].account.is_full(now):
                del self._intakes[client]
            else:
                self._left[client] = None
