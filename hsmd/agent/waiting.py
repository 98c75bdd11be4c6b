"""Operations that wait in the agent: a user that shares a daemon with others has only a few there at a time.

What one user has at a token, the others wait for. So the rest waits here, where it delays only its own user.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from hsmd.agent.upstream import Cancellable
from hsmd.client.channel import Answered
from hsmd.errors import DeadlineExceeded, HsmdError
from hsmd.protocol.frames import Kind, error_body, with_deadline

_LATE = error_body(DeadlineExceeded())

Forward = Callable[[bytes, int, Answered], Cancellable]
"""Sends the body of a key operation to a daemon, with its deadline in milliseconds. Raises HsmdError."""


class Line:
    """The operations of one user that wait, in the order in which they came."""

    __slots__ = ("_clock", "_going", "_waiting")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._waiting: deque[Waiting] = deque()
        self._going = False

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, forward: Forward, body: bytes, deadline_ms: int, answered: Answered) -> Waiting:
        """Have an operation wait. `answered` as for `Connection.submit`; it is not called from here."""
        waiting = Waiting(self, forward, body, self._clock() + deadline_ms / 1000, answered)
        self._waiting.append(waiting)
        return waiting

    def go_on(self, may_go: Callable[[], bool]) -> None:
        """Send operations while `may_go`. One that fails at once makes room for the next, which this call sends as well."""
        if self._going:
            return
        self._going = True
        try:
            while self._waiting and may_go():
                waiting = self._waiting.popleft()
                waiting.go(self._left_ms(waiting))
        finally:
            self._going = False

    def expire(self) -> None:
        """Answer those whose time is over."""
        for waiting in [one for one in self._waiting if self._left_ms(one) <= 0]:
            if self.remove(waiting):  # or an answer before it has let it go
                waiting.go(0)

    def remove(self, waiting: Waiting) -> bool:
        """Forget an operation; return whether it waited."""
        if waiting not in self._waiting:
            return False
        self._waiting.remove(waiting)
        return True

    def _left_ms(self, waiting: Waiting) -> int:
        return round((waiting.ends - self._clock()) * 1000)


class Waiting:
    """One operation, in its line or at a daemon."""

    __slots__ = ("_answered", "_body", "_forward", "_line", "_ticket", "ends")

    def __init__(self, line: Line, forward: Forward, body: bytes, ends: float, answered: Answered) -> None:
        """`ends`: its deadline (monotonic)."""
        self._line = line
        self._forward = forward
        self._body = body
        self.ends = ends
        self._answered = answered
        self._ticket: Cancellable | None = None

    def go(self, left_ms: int) -> None:
        """It has left the line: send it to a daemon with the time that is left."""
        if left_ms <= 0:
            self._answered(Kind.ERROR, _LATE)
            return
        try:
            self._ticket = self._forward(with_deadline(self._body, left_ms), left_ms, self._answered)
        except HsmdError as error:
            self._answered(Kind.ERROR, error_body(error))

    def cancel(self) -> None:
        """As `Ticket.cancel`."""
        if self._ticket is None:
            self._line.remove(self)
        else:
            self._ticket.cancel()

    def when_settled(self, settled: Answered) -> bool:
        """As `Ticket.when_settled`: a daemon that has not seen it owes nothing."""
        return self._ticket is not None and self._ticket.when_settled(settled)
