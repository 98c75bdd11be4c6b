"""One channel to a server: open requests, batching, deadlines, liveness. It ends when its wire is lost.

Written for the hot path: a request costs one dictionary entry and two list entries, all frames of one turn of the event loop
are sent in one write, and timers belong to the channel, not to requests.

Whether the server is alive is asked as often as something depends on it: at once with a request after a silence, soon while an
answer is awaited, and every few seconds on an idle channel. A thousand idle clients cost a daemon next to nothing.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Protocol

from hsmd.client.wire import Wire
from hsmd.errors import (
    BadRequest,
    DeadlineExceeded,
    HsmdError,
    Overloaded,
    ProtocolError,
    Unavailable,
    VersionMismatch,
)
from hsmd.protocol.channel import ClientChannel
from hsmd.protocol.frames import (
    HEADER,
    ID_AND_KIND_BYTES,
    Capability,
    Kind,
    Welcome,
    decode_drain,
    decode_error,
    encode,
    encode_hello,
    error_body,
)
from hsmd.system.process import let_others_ask

CHECK_S = 0.05
"""Interval of the liveness check while an answer is awaited."""
PING_AFTER_S = 0.1
"""Silence after which the server is sent a ping while an answer is awaited."""
PING_LATEST_S = 1.0
"""While the server answers pings, but not the requests that are open, the silence before each ping doubles up to this."""
ANSWER_PING_S = 0.2
"""The least time that the server has for its answer to a ping, before another one is sent."""
SILENT_AFTER_S = 0.3
"""Silence after which the server counts as unavailable if an answer is awaited; open requests stay open."""
LOST_AFTER_S = 2.0
"""Silence after which the channel is closed if an answer is awaited."""
IDLE_AFTER_S = 1.0
"""Time without a request after which a channel is idle: its next request takes a ping along, and checks stop until then."""
IDLE_PING_S = (40.0, 60.0)
"""An idle channel is sent a ping after a random time in this range: short enough for firewalls, and not all at once."""
SWEEP_S = 0.01
"""Shortest interval between two checks of the deadlines."""
OWED_S = 60.0
"""How long a server may owe the answer to a request that was cancelled or has timed out."""
FULL_RETRY_MS = 20

Answered = Callable[[int, bytes], None]
"""Called once with (Kind.RESULT | Kind.CONTROL_RESULT | Kind.ERROR, body of that frame)."""

_NEVER = float("inf")


_DEADLINE = error_body(DeadlineExceeded())


class Ticket:
    """An open request. `answered` is None once it was called, or the request was cancelled."""

    __slots__ = ("answer_kind", "answered", "channel", "deadline", "request_id")

    def __init__(
        self, channel: Channel, request_id: int, answer_kind: int, deadline: float, answered: Answered
    ) -> None:
        self.channel = channel
        self.request_id = request_id
        self.answer_kind = answer_kind
        self.deadline = deadline
        self.answered: Answered | None = answered

    def cancel(self) -> None:
        """Drop the answer: `answered` will not be called, and the server is told to cancel. No effect once answered."""
        if self.answered is not None:
            self.answered = None
            self.channel.abandon(self)

    def when_settled(self, settled: Answered) -> bool:
        """Call `settled` with the answer that the server still owes to this request, though it is not awaited any more.

        Return False if it owes none.
        """
        return self.channel.when_settled(self, settled)


class ChannelOwner(Protocol):
    """Called with what happens to a channel."""

    def channel_alive(self, channel: Channel, alive: bool) -> None:
        """The server fell silent, or sends again."""

    def channel_draining(self, channel: Channel, grace_ms: int) -> None:
        """The server is shutting down; the channel takes no new requests and closes when none is open."""

    def channel_lost(self, channel: Channel, reason: str) -> None:
        """The channel ended; open requests have been answered Unavailable."""

    def channel_event(self, channel: Channel, document: bytes) -> None:
        """The server sent an event."""


class Channel:
    """A channel from its hello to its end.

    `alive`: nothing has been unanswered for 300 ms. `probing`: a ping was sent, and nothing was heard since.
    """

    def __init__(
        self, owner: ChannelOwner, *, patient: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`patient`: before requests are sent, let other ready processes run, which may add more (hsmd/system/process.py)."""
        self._owner = owner
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._send = self._flush_after_others if patient else self._flush
        self._protocol = ClientChannel()
        self._open: dict[int, Ticket] = {}
        self._settled: dict[int, Answered] = {}
        """What to call when requests that are not awaited any more are answered."""
        self._out: list[bytes] = []
        self._last_id = 0
        self._heard = self._awaited_since = self._check_due = self._pinged = self._probing_since = clock()
        self._used = self._heard
        self._ping_after = PING_AFTER_S
        self._next_deadline = _NEVER
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._alive_timer: asyncio.TimerHandle | None = None
        self._wire: Wire | None = None
        self._max_open = 0
        self._max_length = 0
        self._greeted: asyncio.Future[Welcome] = self._loop.create_future()
        self._idle = False
        self.probing = False
        self.alive = False
        self.draining = False
        self.ended = False

    @property
    def binding(self) -> bytes:
        """See `Wire.binding`; empty before `greet`."""
        return b"" if self._wire is None else self._wire.binding

    async def greet(self, wire: Wire) -> Welcome:
        """Send the hello over `wire` and return the server's welcome. Raises HsmdError if the channel ends instead."""
        self._wire = wire
        try:
            wire.write(encode_hello(Capability.CONTROL | Capability.EVENTS))
        except OSError as error:  # the server has gone since the wire was opened
            self.lost(str(error))
        return await self._greeted

    # --- requests ---

    def request(
        self, kind: int, answer_kind: int, body: bytes, timeout_s: float, answered: Answered
    ) -> Ticket:
        """Send a frame of `kind`. `answered` is called exactly once, never from within this call.

        Raises Unavailable, Overloaded (too many requests are open) or BadRequest (too large for the server).
        """
        if not self.alive or self.draining:
            raise Unavailable("the server is draining" if self.draining else "the server does not answer")
        length = len(body) + ID_AND_KIND_BYTES
        if len(self._open) >= self._max_open or length > self._max_length:
            raise self._limit_error(length)
        self._last_id = request_id = self._last_id + 1
        now = self._clock()
        deadline = now + timeout_s
        ticket = Ticket(self, request_id, answer_kind, deadline, answered)
        first = not self._open
        self._open[request_id] = ticket
        out = self._out
        if not out:
            self._loop.call_soon(self._send)
        out.append(HEADER.pack(length, kind, request_id))
        out.append(body)
        self._ping_after = PING_AFTER_S
        if first:
            self._await(now)
        if deadline < self._next_deadline:
            self._schedule(deadline, timeout_s)
        return ticket

    def abandon(self, ticket: Ticket) -> None:
        """Tell the server to cancel. It still owes an answer, so the request stays open until that has come."""
        if ticket.request_id in self._open:
            ticket.deadline = self._clock() + OWED_S
            self._write(encode(Kind.CANCEL, ticket.request_id))

    def when_settled(self, ticket: Ticket, settled: Answered) -> bool:
        """See `Ticket.when_settled`."""
        if ticket.request_id not in self._open:
            return False
        self._settled[ticket.request_id] = settled
        return True

    def _limit_error(self, length: int) -> HsmdError:
        if length > self._max_length:
            return BadRequest(f"data: {length - self._max_length} bytes more than the server accepts")
        return Overloaded("too many requests are open", retry_after_ms=FULL_RETRY_MS)

    def _write(self, frame: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(frame)

    def _flush_after_others(self) -> None:
        let_others_ask()
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._out and self._wire is not None and not self.ended:
            out, self._out = self._out, []
            try:
                self._wire.write(b"".join(out))
            except OSError as error:
                self._loop.call_soon(self.lost, str(error))

    # --- what the wire calls ---

    def received(self, data: bytes) -> None:
        """Bytes from the server."""
        self._heard = self._clock()
        self.probing = False
        if not self.alive and self._greeted.done() and not self.ended:
            self._set_alive()
        try:
            for kind, request_id, body in self._protocol.receive(data):
                if kind == Kind.RESULT or kind == Kind.CONTROL_RESULT or (kind == Kind.ERROR and request_id):
                    self._answer(kind, request_id, body)
                else:
                    self._handle_other(kind, request_id, body)
        except (ProtocolError, VersionMismatch) as error:
            self._break(error)
            return
        if self.draining and not self._open:
            self.close("drained")

    def lost(self, reason: str) -> None:
        """The wire is gone."""
        self._out.clear()
        self.close(reason)

    def _answer(self, kind: int, request_id: int, body: bytes) -> None:
        ticket = self._open.get(request_id)
        if ticket is None or (kind != ticket.answer_kind and kind != Kind.ERROR):
            raise ProtocolError(
                f"the server answered request {request_id}, which is not open or of another kind"
            )
        del self._open[request_id]
        answered = ticket.answered
        if answered is not None:
            ticket.answered = None
            answered(kind, body)
        elif (settled := self._settled.pop(request_id, None)) is not None:
            settled(kind, body)

    def _handle_other(self, kind: int, request_id: int, body: bytes) -> None:
        """A frame that answers no request."""
        if kind == Kind.PING:
            self._write(encode(Kind.PONG, request_id))
        elif kind == Kind.WELCOME:
            self._welcomed()
        elif kind == Kind.DRAIN:
            self._drain(decode_drain(body))
        elif kind == Kind.EVENT:
            self._owner.channel_event(self, body)
        elif kind == Kind.ERROR:
            self._break(decode_error(body))

    def _welcomed(self) -> None:
        welcome = self._protocol.welcome
        assert welcome is not None
        self._max_open = welcome.max_open_requests
        self._max_length = welcome.max_length
        if not self._greeted.done():
            self._greeted.set_result(welcome)
        self._check_later(self._clock(), CHECK_S)
        self._set_alive()

    def _drain(self, grace_ms: int) -> None:
        if not self.draining:
            self.draining = True
            self._owner.channel_draining(self, grace_ms)

    # --- time ---

    def _schedule(self, at: float, after_s: float) -> None:
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        self._next_deadline = at
        self._deadline_timer = self._loop.call_later(after_s, self._sweep)

    def _sweep(self) -> None:
        """Answer the requests whose deadline has passed; the server's late answers to them are dropped."""
        self._deadline_timer, self._next_deadline = None, _NEVER
        now = self._clock()
        earliest = _NEVER
        for ticket in list(self._open.values()):
            if ticket.deadline <= now and not self._expire(ticket):
                return
            earliest = min(earliest, ticket.deadline)
        if earliest < self._next_deadline and not self.ended:
            after_s = max(earliest - now, SWEEP_S)
            self._schedule(now + after_s, after_s)

    def _expire(self, ticket: Ticket) -> bool:
        answered = ticket.answered
        if answered is None:
            self._break(ProtocolError("the server owes answers"))
            return False
        ticket.answered = None
        self.abandon(ticket)
        answered(Kind.ERROR, _DEADLINE)
        return not self.ended

    def _await(self, now: float) -> None:
        """The first of the open requests was made."""
        self._used = now
        if not self.probing:
            self._awaited_since = now
        if self._idle:
            self._check_later(now, CHECK_S)
        if now - self._heard > IDLE_AFTER_S and not self.probing:
            self._ping(now)

    def _ping(self, now: float) -> None:
        """Ask the server for a sign of life."""
        if not self.probing:
            self.probing, self._probing_since = True, now
            if not self._open:
                self._awaited_since = now
        self._pinged = now
        self._last_id += 1
        self._write(encode(Kind.PING, self._last_id))

    def _check_later(self, now: float, after_s: float, *, idle: bool = False) -> None:
        if self._alive_timer is not None:
            self._alive_timer.cancel()
        self._idle = idle
        self._check_due = now + after_s
        self._alive_timer = self._loop.call_later(after_s, self._check_alive)

    def _check_alive(self) -> None:
        """Judge by the time of the last byte whether the server is alive, and ping it if it has been silent."""
        now = self._clock()
        if now - self._check_due > 3 * CHECK_S:
            # This process was held up: what the server sent meanwhile is still unread.
            self._heard = now
        if self._open or self.probing:
            self._check_silence(now)
        elif self._idle:
            self._ping(now)
        elif now - self._used >= IDLE_AFTER_S:
            self._check_later(now, random.uniform(*IDLE_PING_S), idle=True)
            return
        if not self.ended:
            self._check_later(now, CHECK_S)

    def _check_silence(self, now: float) -> None:
        """An answer is awaited."""
        silence = now - max(self._heard, self._awaited_since)
        if silence >= LOST_AFTER_S:
            self.close(f"nothing heard for {LOST_AFTER_S:g} s")
            return
        if (
            self.alive
            and self.probing
            and silence >= SILENT_AFTER_S
            and now - self._probing_since >= ANSWER_PING_S
        ):
            self.alive = False
            self._owner.channel_alive(self, False)
        if silence >= self._ping_after and not (self.probing and now - self._pinged < ANSWER_PING_S):
            self._ping_after = min(2 * self._ping_after, PING_LATEST_S)
            self._ping(now)

    def _set_alive(self) -> None:
        self.alive = True
        self._owner.channel_alive(self, True)

    # --- the end ---

    def _break(self, error: HsmdError) -> None:
        if not self._greeted.done():
            self._greeted.set_exception(error)
        self.close(error.text)

    def close(self, reason: str) -> None:
        """End the channel: all open requests are answered Unavailable."""
        if self.ended:
            return
        self._flush()
        self.ended, self.alive = True, False
        self._protocol.close()
        for timer in (self._deadline_timer, self._alive_timer):
            if timer is not None:
                timer.cancel()
        if not self._greeted.done():
            self._greeted.set_exception(Unavailable(f"the connection ended before the welcome: {reason}"))
            self._greeted.exception()  # not awaited by anyone if the wire could not be opened
        if self._wire is not None:
            self._wire.close()
        self._fail_open(reason)
        self._owner.channel_lost(self, reason)

    async def wait_closed(self) -> None:
        """Wait until the wire has released its resources."""
        if self._wire is not None:
            await self._wire.wait_closed()

    def _fail_open(self, reason: str) -> None:
        tickets, self._open = list(self._open.values()), {}
        body = error_body(Unavailable(f"connection lost: {reason}"))
        for ticket in tickets:
            answered, ticket.answered = ticket.answered, None
            if answered is not None:
                answered(Kind.ERROR, body)
        settled, self._settled = list(self._settled.values()), {}
        for each in settled:
            each(Kind.ERROR, body)
