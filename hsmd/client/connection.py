"""A persistent connection: one multiplexed channel to a server, re-established whenever it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from hsmd import observe
from hsmd.client.channel import Answered, Channel, Ticket
from hsmd.client.endpoint import AgentEndpoint, Endpoint
from hsmd.client.event_stream import EventStream
from hsmd.client.requests import Ask, ask, control, deadline_in_ms
from hsmd.client.transport import open_wire
from hsmd.client.wire import LOGIN_S
from hsmd.errors import (
    BadRequest,
    Conflict,
    HsmdError,
    Overloaded,
    ProofInvalid,
    ProtocolError,
    Unavailable,
)
from hsmd.protocol.frames import (
    KEY_DIGEST_BYTES,
    Kind,
    key_operation_body,
)
from hsmd.protocol.messages import Event, Request

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
"""The pause between attempts doubles from the first to the longest, with full jitter; the longest is short enough to
reconnect within two seconds of the daemon's return."""
STEADY_S = 1.0
"""A channel that lasted this long resets the pause."""
CLOSE_S = 1.0

log = observe.logger()

R = TypeVar("R", bound=Struct)


class Connection:
    """One multiplexed connection. Belongs to the event loop it is started on; not thread-safe.

    `available`: a request may be sent now, that is, the server is connected, not draining, and has not left a request or ping
    unanswered for 300 ms. Requests made while it is False fail at once with Unavailable. Requests that are open when the
    connection is lost are answered Unavailable and not repeated. `probing`: a ping was sent, and nothing was heard since.

    `examine`, if given, is awaited with a function that sends control requests, after each connect and before first use; an
    exception ends that connection. `patient` is for processes that forward requests of others: see `Channel`.
    `on_state(available)` is called when that changes, `on_event(event)` with each event of the server (a JSON object).
    """

    def __init__(
        self,
        endpoint: Endpoint | AgentEndpoint,
        *,
        patient: bool = False,
        examine: Callable[[Ask], Awaitable[None]] | None = None,
        on_state: Callable[[bool], None] | None = None,
        on_event: Callable[[dict[str, Any]], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.endpoint = endpoint
        self.available = False
        self.problem: HsmdError | None = None
        self._patient = patient
        self._examine = examine
        self._on_state = on_state
        self._on_event = on_event
        self._clock = clock
        self._channel: Channel | None = None
        self._channels: set[Channel] = set()
        self._needed = asyncio.Event()
        self._connected_now = asyncio.Event()
        self._stream: EventStream | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def probing(self) -> bool:
        return self._channel is not None and self._channel.probing

    @property
    def channel_binding(self) -> bytes:
        """What only both ends of the SSH connection in use know to be its own: a proof for it counts on no other one.

        Empty for an agent. Another one after the connection was lost and made again. Raises Unavailable if there is none.
        """
        return self._connected().binding

    # --- start and end ---

    async def start(self) -> None:
        """Connect, and reconnect from then on. Raises HsmdError if the first attempt fails; nothing is left running then."""
        await self._connect()
        self._start_keeper()

    def begin(self) -> None:
        """Connect in the background, retrying until it succeeds; `problem` is why the last attempt failed."""
        self._needed.set()
        self._start_keeper()

    async def close(self) -> None:
        """End the connection; open requests are answered Unavailable."""
        self._closed = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        channels = list(self._channels)
        for channel in channels:
            channel.close("closed by the caller")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await asyncio.gather(*(channel.wait_closed() for channel in channels))

    async def __aenter__(self) -> Connection:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # --- requests, hot path ---

    def submit(
        self, deadline_ms: int, purpose: int, scheme: int, key: bytes, data: bytes, answered: Answered
    ) -> Ticket:
        """Request one use of a key within `deadline_ms` (1 to 60,000).

        `answered(kind, body)` is called exactly once unless the ticket is cancelled, never from within this call:
        (Kind.RESULT, answer) or (Kind.ERROR, body of an error frame), at most 10 ms after the deadline.
        Raises Unavailable or Overloaded when it cannot be sent now, BadRequest when `data` is too long.
        """
        body = key_operation_body(deadline_ms, purpose, scheme, key, data)
        return self.forward(body, deadline_ms, answered)

    def forward(self, body: bytes, deadline_ms: int, answered: Answered) -> Ticket:
        """Like `submit`, for the body of a key operation frame as it was received; `deadline_ms` is the one in it."""
        channel = self._channel
        if channel is None:
            raise Unavailable(f"{self.endpoint} is not connected")
        return channel.request(Kind.KEY_OPERATION, Kind.RESULT, body, deadline_ms / 1000, answered)

    @staticmethod
    def cancel(ticket: Ticket) -> None:
        """Cancel a request that was submitted or forwarded: the same as `ticket.cancel()`."""
        ticket.cancel()

    # --- requests, one at a time ---

    async def use_key(self, key: bytes, purpose: int, scheme: int, data: bytes, *, timeout_s: float) -> bytes:
        """The signature (or premaster secret) that `key` (SHA-256 of its SubjectPublicKeyInfo) makes of `data`.

        A request that an overloaded server refuses is repeated after the pause it names while there is time. Raises HsmdError.
        """
        if len(key) != KEY_DIGEST_BYTES:
            raise BadRequest(
                f"key: {len(key)} bytes; a key is named by the {KEY_DIGEST_BYTES} bytes of its SHA-256"
            )
        ends = self._clock() + timeout_s
        while True:
            left_s = ends - self._clock()
            deadline_ms = deadline_in_ms(left_s)
            try:
                body = key_operation_body(deadline_ms, purpose, scheme, key, data)
                return await ask(self._connected(), Kind.KEY_OPERATION, Kind.RESULT, body, deadline_ms / 1000)
            except Overloaded as error:
                pause_s = max(error.retry_after_ms, 1) / 1000
                if self._clock() + pause_s >= ends:
                    raise
                await asyncio.sleep(pause_s)

    async def control(self, request: Request, *, timeout_s: float) -> Any:
        """The result of a control request, of the type `request.Result`. Raises HsmdError."""
        return await control(self._connected(), request, timeout_s)

    async def events(
        self, since: str = "", *, waiting: Callable[[HsmdError], None] | None = None
    ) -> AsyncGenerator[Event]:
        """Events that this client may read, from a cursor on, in order; each as it happens, without end.

        `since` is the `id` of the last event that was dealt with, empty for the oldest event that is kept, `now` for none but
        those to come. A lost connection is made again, and goes on behind the last event that was returned. An event of the
        kind `events.missed` stands for those that the daemon no longer has.

        `waiting` is called with the error whenever it has to try again. Raises HsmdError for what does not pass by itself.
        One such iteration at a time: Conflict.
        """
        if self._stream is not None:
            raise Conflict("the events of this connection are being followed already")
        self._stream = EventStream(self._channel_for_events, since, waiting)
        try:
            async for event in self._stream.events():
                yield event
        finally:
            self._stream = None

    async def _channel_for_events(self) -> Channel:
        while self._channel is None:
            await self._connected_now.wait()
        return self._channel

    def distrust(self, error: HsmdError) -> None:
        """End the current connection because of `error`; the next one is examined before it is used."""
        channel = self._channel
        if channel is not None:
            channel.close(error.text)
            self._note(error)

    def _connected(self) -> Channel:
        if self._channel is None:
            raise self._unavailable()
        return self._channel

    def _unavailable(self) -> HsmdError:
        why = f": {self.problem.text}" if self.problem is not None else ""
        return Unavailable(f"{self.endpoint} is not connected{why}")

    # --- keeping the connection ---

    def _start_keeper(self) -> None:
        self._keeper = asyncio.get_running_loop().create_task(self._keep_connected())

    async def _keep_connected(self) -> None:
        attempt = 0
        busy_s = 0.0
        began = self._clock()
        while True:
            await self._needed.wait()
            if self._clock() - began > STEADY_S:
                attempt = 0
            longest_s = max(busy_s, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**attempt))
            await asyncio.sleep(random.uniform(0, longest_s))
            attempt, busy_s = min(attempt + 1, 16), 0.0
            try:
                await self._connect()
            except HsmdError as error:
                busy_s = error.retry_after_ms / 1000
                self._note(error)
            began = self._clock()

    async def _connect(self) -> None:
        """One attempt. Raises HsmdError."""
        channel = Channel(self, patient=self._patient, clock=self._clock)
        try:
            wire = await open_wire(self.endpoint, channel)
            self._channels.add(channel)
            async with asyncio.timeout(LOGIN_S):
                await channel.greet(wire)
            if self._examine is not None:
                await self._examine(partial(control, channel))
        except TimeoutError:
            channel.close("no welcome")
            await channel.wait_closed()
            raise Unavailable(f"{self.endpoint} sent no welcome within {LOGIN_S:g} s") from None
        except BaseException:
            channel.close("not connected")
            raise
        self._use(channel)

    def _use(self, channel: Channel) -> None:
        if channel.ended or channel.draining:
            raise Unavailable(f"{self.endpoint} is shutting down")
        self._channel = channel
        self._needed.clear()
        self._connected_now.set()
        self.problem = None
        log.info("connection.up", daemon=str(self.endpoint))
        self._update_available()

    def _note(self, error: HsmdError) -> None:
        """Log a failed attempt, unless the previous one failed for the same reason."""
        if self.problem is None or self.problem.text != error.text:
            log_event = log.error if isinstance(error, ProofInvalid) else log.warning
            log_event("connection.failed", daemon=str(self.endpoint), error=error.text)
        self.problem = error

    def _update_available(self) -> None:
        available = self._channel is not None and self._channel.alive
        if available is not self.available:
            self.available = available
            if self._on_state is not None:
                self._on_state(available)

    def _drop(self, channel: Channel) -> None:
        if channel is self._channel:
            self._channel = None
            self._needed.set()
            self._connected_now.clear()
            self._update_available()

    # --- called by channels ---

    def channel_alive(self, channel: Channel, alive: bool) -> None:
        self._update_available()

    def channel_draining(self, channel: Channel, grace_ms: int) -> None:
        """Reconnect at once; the old channel answers what is open and closes."""
        log.info("connection.draining", daemon=str(self.endpoint))
        self._drop(channel)

    def channel_lost(self, channel: Channel, reason: str) -> None:
        self._channels.discard(channel)
        if self._stream is not None:
            self._stream.lost(channel, reason)
        if channel is self._channel and not self._closed:
            self.problem = Unavailable(f"connection lost: {reason}")
            log.warning("connection.lost", daemon=str(self.endpoint), error=reason)
        self._drop(channel)

    def channel_event(self, channel: Channel, document: bytes) -> None:
        if self._stream is not None:
            self._stream.received(channel, document)
        if self._on_event is None:
            return
        try:
            self._on_event(msgspec.json.decode(document, type=dict[str, Any]))
        except (msgspec.MsgspecError, RecursionError):
            raise ProtocolError("an event is not a JSON object") from None
