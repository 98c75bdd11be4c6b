"""One session: the server's end of a channel, whatever carries it.

It bounds what a peer can hold: open requests, control requests at a time, an unfinished frame's age, and the time a peer
may leave answers unread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from hsmd import observe
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.signing.service import KeyService
from hsmd.daemon.front.signing.signing_request import SigningRequest
from hsmd.errors import (
    BadRequest,
    DeadlineExceeded,
    Draining,
    HsmdError,
    InternalFault,
    Overloaded,
    ProtocolError,
    VersionMismatch,
)
from hsmd.protocol import messages
from hsmd.protocol.channel import ServerChannel, State
from hsmd.protocol.frames import (
    MAX_ANSWER_LENGTH,
    Capability,
    Kind,
    decode_control_request,
    encode,
    encode_drain,
    encode_error,
    encode_welcome,
)

MAX_CONTROL_REQUESTS = 8
"""Control requests one session may have open: people and scripts ask a few at a time."""
HALF_FRAME_S = 10.0
"""How long a peer may take to finish a frame it began, or to say hello."""
UNREAD_S = 10.0
"""How long a peer may leave answers unread before it is dropped."""
OVERLOAD_RETRY_MS = 50
REST_S = 0.1
"""How long a peer is not read whose client is beyond its share: turning requests away takes time that others need."""
MAX_CONTROL_RESULT_BYTES = MAX_ANSWER_LENGTH - 9
"""The longest document that every client accepts in a frame."""

log = observe.logger()


class Transport(Protocol):
    """What carries a session's bytes."""

    def write(self, data: bytes) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def close(self) -> None:
        """Close after what was written has been sent."""

    def abort(self) -> None:
        """Drop the peer at once."""


Dispatch = Callable[[Identity, messages.Request, float], Coroutine[Any, Any, Any]]
"""Carries out one control request for an identity until a monotonic deadline; raises HsmdError."""


class Session:
    """Feeds a peer's bytes to the service and writes answers, one piece for each batch."""

    def __init__(
        self,
        identity: Identity,
        transport: Transport,
        *,
        service: KeyService,
        dispatch: Dispatch,
        max_open_requests: int,
        clock: Callable[[], float],
        ended: Callable[[Session], object],
    ) -> None:
        self.identity = identity
        self._ended = ended
        self._transport = transport
        self._service = service
        self._dispatch = dispatch
        self._max_open_requests = max_open_requests
        self._clock = clock
        self._channel = ServerChannel(Capability.CONTROL | Capability.EVENTS, max_open_requests)
        self._open: dict[int, SigningRequest | None] = {}
        self._control: dict[int, asyncio.Task[None]] = {}
        self._out: list[bytes] = []
        self._unfinished_since: float | None = clock()
        self._unread_since: float | None = None
        self._resting = False
        self._closed = False

    # --- what the transport calls ---

    def received(self, data: bytes) -> None:
        """Bytes from the peer."""
        greeting = self._channel.state is State.GREETING
        try:
            frames = self._channel.receive(data)
            if frames:
                self._unfinished_since = None
            if greeting and self._channel.state is State.OPEN:
                self._out.append(encode_welcome(self._channel.welcome()))
                del frames[0]
            self._handle(frames)
        except (ProtocolError, VersionMismatch) as error:
            self._break(error)
            return
        if self._channel.unfinished:
            self._unfinished_since = self._unfinished_since or self._clock()
        else:
            self._unfinished_since = None
        self.flush()

    def pause_writing(self) -> None:
        """The peer does not read as fast as we answer: take nothing more from it until it does."""
        self._unread_since = self._clock()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The peer caught up."""
        if not self._closed:
            self._unread_since = None
        if not self._resting:
            self._transport.resume_reading()

    def lost(self) -> None:
        """The transport is gone: nobody waits for the open requests any more."""
        self._closed = True
        self._ended(self)
        self._out.clear()
        self._channel.close()
        self._abandon()

    # --- what the front process calls ---

    def check(self, now: float) -> None:
        """Drop a peer that holds a frame half sent, or answers unread, for too long."""
        if self._unfinished_since is not None and now - self._unfinished_since > HALF_FRAME_S:
            self._break(ProtocolError("a frame was left unfinished for too long"))
        elif self._unread_since is not None and now - self._unread_since > UNREAD_S:
            log.warning("session.unread", client=self.identity.client)
            self._unread_since = None
            self._transport.abort()

    def drain(self, grace_ms: int) -> None:
        """Announce that this server goes away."""
        if self._channel.state is State.OPEN:
            self._out.append(encode_drain(grace_ms))
            self.flush()

    @property
    def idle(self) -> bool:
        """Whether nothing is open."""
        return not self._open and not self._control

    def close(self) -> None:
        """Close once what is written has been sent."""
        self.flush()
        self._transport.close()

    # --- what the service calls ---

    def opened(self, request_id: int, use: SigningRequest) -> None:
        self._open[request_id] = use

    def answered(self, request_id: int, answer: bytes) -> None:
        if not self._closed:
            self._open.pop(request_id, None)
            self._out.append(encode(Kind.RESULT, request_id, answer))

    def failed(self, request_id: int, error: HsmdError) -> None:
        if not self._closed:
            self._open.pop(request_id, None)
            self._out.append(encode_error(request_id, error))

    def flush(self) -> None:
        if self._out and not self._closed:
            out, self._out = self._out, []
            try:
                self._transport.write(b"".join(out))
            except OSError:
                # The channel is closing and `lost` will follow; answers of others that ended with these must go on.
                self._closed = True

    # --- frames ---

    def _handle(self, frames: list[tuple[int, int, bytes]]) -> None:
        operations: list[tuple[int, bytes]] = []
        for kind, request_id, body in frames:
            if kind == Kind.KEY_OPERATION:
                if self._admit(request_id):
                    self._open[request_id] = None
                    operations.append((request_id, body))
            elif kind == Kind.PING:
                self._out.append(encode(Kind.PONG, request_id))
            elif kind == Kind.CONTROL_REQUEST:
                self._control_request(request_id, body)
            elif kind == Kind.CANCEL:
                self._cancel(request_id)
        if operations and not self._service.use(self, operations):
            self._rest()

    def _rest(self) -> None:
        """Stop reading for a moment."""
        if not self._resting:
            self._resting = True
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(REST_S, self._rested)

    def _rested(self) -> None:
        self._resting = False
        if not self._closed and self._unread_since is None:
            self._transport.resume_reading()

    def _admit(self, request_id: int) -> bool:
        if request_id in self._open or request_id in self._control:
            raise ProtocolError(f"request id {request_id} is still open")
        if len(self._open) >= self._max_open_requests:
            self._out.append(encode_error(request_id, Overloaded(retry_after_ms=OVERLOAD_RETRY_MS)))
            return False
        return True

    def _cancel(self, request_id: int) -> None:
        use = self._open.get(request_id)
        if use is not None:
            self._service.abandon([use])
        task = self._control.get(request_id)
        if task is not None:
            task.cancel()

    def _control_request(self, request_id: int, body: bytes) -> None:
        deadline_ms, document = decode_control_request(body)
        if not self._admit(request_id):
            return
        if self._service.draining:
            self._out.append(encode_error(request_id, Draining()))
            return
        if len(self._control) >= MAX_CONTROL_REQUESTS:
            self._out.append(encode_error(request_id, Overloaded(retry_after_ms=OVERLOAD_RETRY_MS)))
            return
        task = asyncio.get_running_loop().create_task(self._carry_out(request_id, deadline_ms, document))
        self._control[request_id] = task

    async def _carry_out(self, request_id: int, deadline_ms: int, document: bytes) -> None:
        try:
            frame = await self._control_answer(request_id, deadline_ms / 1000, document)
        except asyncio.CancelledError:
            frame = encode_error(request_id, DeadlineExceeded("cancelled"))
        self._control.pop(request_id, None)
        if not self._closed:
            self._out.append(frame)
            self.flush()

    async def _control_answer(self, request_id: int, timeout_s: float, document: bytes) -> bytes:
        try:
            async with asyncio.timeout(timeout_s):
                request = messages.decode_request(document)
                result = await self._dispatch(self.identity, request, self._clock() + timeout_s)
                return _control_result(request_id, messages.encode_result(result))
        except TimeoutError:
            return encode_error(request_id, DeadlineExceeded())
        except HsmdError as error:
            if error.detail:
                log.warning(
                    "control.failed", client=self.identity.client, error=error.text, detail=error.detail
                )
            return encode_error(request_id, error)
        except Exception:  # the supervisor of control requests: a bug ends one request, not the session
            log.exception("control.fault", client=self.identity.client)
            return encode_error(request_id, InternalFault())

    def _break(self, error: HsmdError) -> None:
        """Tell the peer what it broke, and end the channel."""
        log.warning("session.broken", client=self.identity.client, error=error.text)
        self._channel.close()
        self._unfinished_since = None
        self._unread_since = (
            self._clock()
        )  # a peer that does not close its end either is dropped like one that does not read
        self._abandon()
        self._out.append(encode_error(0, error))
        self.flush()
        self._closed = True
        self._transport.close()

    def _abandon(self) -> None:
        """Nobody waits any more for what is open."""
        uses = [use for use in self._open.values() if use is not None]
        self._open.clear()
        for task in self._control.values():
            task.cancel()
        self._service.abandon(uses)


def _control_result(request_id: int, document: bytes) -> bytes:
    if len(document) > MAX_CONTROL_RESULT_BYTES:
        return encode_error(
            request_id, BadRequest("limit: the answer would be too long; ask for fewer at a time")
        )
    return encode(Kind.CONTROL_RESULT, request_id, document)
