"""One session: the server's end of a protocol channel, over any transport.

It handles frames as the intake of its client allows, and limits open requests and control requests, how long a frame may stay
unfinished, and how long answers may stay unread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from hsmd import observe
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.signing.service import KeyService
from hsmd.daemon.front.signing.signing_request import SigningRequest
from hsmd.daemon.front.ssh.tariff import LONG_BYTES, LONG_TIMES
from hsmd.errors import (
    BadRequest,
    DeadlineExceeded,
    Draining,
    HsmdError,
    Overloaded,
    ProtocolError,
    VersionMismatch,
)
from hsmd.protocol import messages
from hsmd.protocol.channel import ServerChannel, State
from hsmd.protocol.frames import (
    Capability,
    Kind,
    decode_control_request,
    encode,
    encode_drain,
    encode_error,
    encode_welcome,
)
from hsmd.system.control_requests import ControlRequests
from hsmd.system.intake import Intake

HALF_FRAME_S = 10.0
"""How long a peer may take to finish a frame, or to send its hello."""
UNREAD_S = 10.0
"""How long a peer may leave answers unread before it is dropped."""
RETRY_S = 0.050
"""After this time a peer with too many open requests may try again."""
PAUSE_S = 0.1
"""How long a peer is not read when its client has used up its allowance: refusing requests costs time as well."""

log = observe.logger()


class Transport(Protocol):
    """What carries a session's bytes."""

    def write(self, data: bytes) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def hold(self) -> None:
        """Take nothing more from the whole connection until `release` was called as often."""

    def release(self) -> None: ...
    def close(self) -> None:
        """Close after what was written has been sent."""

    def abort(self) -> None:
        """Drop the peer at once."""


Dispatch = Callable[[Identity, messages.Request, float], Coroutine[Any, Any, Any]]
"""Carries out one control request for an identity until a monotonic deadline; raises HsmdError."""


class Following(Protocol):
    """What sends events to the sessions that asked for them; see `front/ledger/followers.py`."""

    def admit(self, session: Session) -> None:
        """Keep a place until `start`, `decline` or `stop`. Raises Overloaded if this session may not follow: too many do."""

    def decline(self, session: Session) -> None:
        """A session that was admitted does not follow because of that request."""

    def start(self, session: Session, cursor: str) -> None:
        """Push events after `cursor` to this session, in place of what it followed before."""

    def stop(self, session: Session) -> None:
        """The session has ended."""


class Session:
    """Passes requests to the service and the dispatcher, and writes their answers in one piece for each batch."""

    def __init__(
        self,
        identity: Identity,
        transport: Transport,
        *,
        intake: Intake,
        service: KeyService,
        dispatch: Dispatch,
        following: Following,
        max_open_requests: int,
        clock: Callable[[], float],
        ended: Callable[[Session], object],
    ) -> None:
        self.identity = identity
        self._intake = intake
        self._ended = ended
        self._transport = transport
        self._service = service
        self._dispatch = dispatch
        self._following = following
        self._max_open_requests = max_open_requests
        self._clock = clock
        self._channel = ServerChannel(Capability.CONTROL | Capability.EVENTS, max_open_requests)
        self.open_requests: dict[int, SigningRequest | None] = {}
        self._control = ControlRequests(
            self._carry_out, self._control_answered, intake=intake, client=identity.client
        )
        self._out: list[bytes] = []
        self._unfinished_since: float | None = clock()
        self._unread_since: float | None = None
        self._pings = 0
        self._pong: asyncio.Future[None] | None = None
        self._pushed_at = 0.0
        self._waiting = False
        self._paused = False
        self._closed = False
        self._refusals = 0
        """Requests that failed; to charge those that failed at once."""
        self._long_bytes = 0
        """Bytes of long key operations in the frames that are handled now."""

    # --- called by the transport ---

    def received(self, data: bytes) -> None:
        """Take the bytes of one packet from the peer."""
        try:
            self._receive(data)
            while self._channel.more and not self._waiting:
                self._receive(b"")
        except (ProtocolError, VersionMismatch) as error:
            self._break(error)
            return
        if self._channel.unfinished:
            self._unfinished_since = self._unfinished_since or self._clock()
        else:
            self._unfinished_since = None
        self.flush()

    def _receive(self, data: bytes) -> None:
        """Handle as many frames as the intake allows now; for the others, wait."""
        channel, intake = self._channel, self._intake
        at_most = 0 if self._waiting else intake.frames_now()
        greeting = channel.state is State.GREETING
        frames = channel.receive(data, at_most)
        if frames:
            self._unfinished_since = None
        if greeting and channel.state is State.OPEN:
            self._out.append(encode_welcome(channel.welcome()))
            del frames[0]
        if channel.taken or data:
            self._handle(frames, len(data), channel.taken)
        if channel.more and not self._waiting and not (at_most and intake.frames_now()):
            self._waiting = True
            self._transport.hold()
            intake.wait(self._continue)

    def _continue(self) -> None:
        """Handle what was left when the turn of this client had ended."""
        self._waiting = False
        self._transport.release()
        if not self._closed:
            self.received(b"")

    def pause_writing(self) -> None:
        """The peer does not read its answers fast enough: read nothing from it until it does."""
        self._unread_since = self._clock()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The peer has read its answers."""
        if not self._closed:
            self._unread_since = None
        self._transport.resume_reading()

    def lost(self) -> None:
        """The transport is closed: abandon the open requests."""
        self._closed = True
        self._ended(self)
        self._following.stop(self)
        self._out.clear()
        self._channel.close()
        self._abandon()

    # --- called by the front process ---

    def check(self, now: float) -> None:
        """Drop a peer that has left a frame unfinished, or answers unread, for too long."""
        if self._unfinished_since is not None and now - self._unfinished_since > HALF_FRAME_S:
            self._break(ProtocolError("a frame was left unfinished for too long"))
        elif self._left_unread(now):
            log.warning("session.unread", client=self.identity.client)
            self._unread_since = self._pong = None
            self._transport.abort()

    def _left_unread(self, now: float) -> bool:
        if self._unread_since is not None and now - self._unread_since > UNREAD_S:
            return True
        return self._pong is not None and not self._pong.done() and now - self._pushed_at > UNREAD_S

    def drain(self, grace_ms: int) -> None:
        """Announce that this server stops."""
        if self._channel.state is State.OPEN:
            self._out.append(encode_drain(grace_ms))
            self.flush()

    @property
    def idle(self) -> bool:
        """Whether no request is open."""
        return not self.open_requests and not self._control.open

    @property
    def held_bytes(self) -> int:
        """What was received and is not handled, such as half a frame."""
        return self._channel.held

    def close(self) -> None:
        """Close once what is written has been sent."""
        self.flush()
        self._transport.close()

    # --- called by what it follows ---

    def push(self, documents: Sequence[bytes]) -> asyncio.Future[None]:
        """Send events, and a ping behind them: the future is done when its pong shows that the peer has read them.

        Whatever lies between (the SSH window, buffers of the kernel), no more than these events are under way to a peer.
        """
        self._pings += 1
        self._pushed_at = self._clock()
        self._pong = asyncio.get_running_loop().create_future()
        self._out += [encode(Kind.EVENT, 0, document) for document in documents]
        self._out.append(encode(Kind.PING, self._pings))
        self.flush()
        return self._pong

    # --- called by the service (Session is a Caller) ---

    def answered(self, request_id: int, answer: bytes) -> None:
        if not self._closed:
            self.open_requests.pop(request_id, None)
            self._out.append(encode(Kind.RESULT, request_id, answer))

    def failed(self, request_id: int, error: HsmdError) -> None:
        self._refusals += 1
        if not self._closed:
            self.open_requests.pop(request_id, None)
            self._out.append(encode_error(request_id, error))

    def flush(self) -> None:
        if self._out and not self._closed:
            out, self._out = self._out, []
            try:
                self._transport.write(b"".join(out))
            except OSError:
                # The channel is closing, and `lost` will follow; other sessions must still get their answers.
                self._closed = True

    # --- frames ---

    def _handle(self, frames: list[tuple[int, int, bytes]], byte_count: int, taken: int) -> None:
        """Handle frames, of `taken` with those that were skipped, and charge the client for them."""
        refusals, control_requests, operations = self._refusals, self._control.started, 0
        self._long_bytes = 0
        try:
            operations = self._handle_each(frames)
        finally:
            refusals = self._refusals - refusals
            accepted = max(operations - refusals, 0)
            self._intake.charge(
                byte_count=byte_count + LONG_TIMES * self._long_bytes,
                frames=taken - accepted,
                refusals=refusals,
                control_requests=self._control.started - control_requests,
                key_operations=accepted,
            )

    def _handle_each(self, frames: list[tuple[int, int, bytes]]) -> int:
        """Return how many key operations were passed to the service."""
        operations: dict[int, bytes] = {}
        for kind, request_id, body in frames:
            if kind == Kind.KEY_OPERATION:
                if self._admit(request_id):
                    self.open_requests[request_id] = None
                    operations[request_id] = body
                    if len(body) > LONG_BYTES:
                        self._long_bytes += len(body)
            elif kind == Kind.PING:
                self._out.append(encode(Kind.PONG, request_id))
            elif kind == Kind.CONTROL_REQUEST:
                self._control_request(request_id, body)
            elif kind == Kind.CANCEL:
                if operations.pop(request_id, None) is None:
                    self._cancel(request_id)
                else:
                    self.open_requests.pop(request_id)
                    self._out.append(encode_error(request_id, DeadlineExceeded("cancelled")))
            elif kind == Kind.PONG:
                self._take_pong(request_id)
        if operations and not self._service.use(self, operations.items()):
            self._pause()
        return len(operations)

    def _take_pong(self, ping: int) -> None:
        if self._pong is not None and ping == self._pings and not self._pong.done():
            self._pong.set_result(None)

    def _pause(self) -> None:
        """Read nothing from this peer for a moment."""
        if not self._paused:
            self._paused = True
            self._transport.hold()
            asyncio.get_running_loop().call_later(PAUSE_S, self._resume)

    def _resume(self) -> None:
        self._paused = False
        self._transport.release()

    def _admit(self, request_id: int) -> bool:
        if request_id in self.open_requests or request_id in self._control.open:
            raise ProtocolError(f"request id {request_id} is still open")
        if len(self.open_requests) >= self._max_open_requests:
            self._out.append(encode_error(request_id, Overloaded.retry_in(RETRY_S)))
            return False
        return True

    def _cancel(self, request_id: int) -> None:
        request = self.open_requests.get(request_id)
        if request is not None:
            self._service.abandon([request])
        self._control.cancel(request_id)

    def _control_request(self, request_id: int, body: bytes) -> None:
        deadline_ms, document = decode_control_request(body)
        if not self._admit(request_id):
            return
        if self._service.draining:
            self._out.append(encode_error(request_id, Draining()))
            return
        if self._control.full:
            self._out.append(encode_error(request_id, Overloaded.retry_in(RETRY_S)))
            return
        self._control.start(request_id, deadline_ms, document)

    async def _carry_out(self, request: messages.Request, timeout_s: float) -> Any:
        if isinstance(request, messages.EventsFollow):
            if not self._channel.capabilities & Capability.EVENTS:
                raise BadRequest(
                    "op: events.follow needs the capability for events in the hello of this channel"
                )
            return await self._carry_out_follow(request, timeout_s)
        return await self._dispatch(self.identity, request, self._clock() + timeout_s)

    async def _carry_out_follow(
        self, request: messages.EventsFollow, timeout_s: float
    ) -> messages.EventsFollowed:
        self._following.admit(self)
        try:
            result: messages.EventsFollowed = await self._dispatch(
                self.identity, request, self._clock() + timeout_s
            )
        except BaseException:
            self._following.decline(self)
            raise
        # The task that this makes runs after the answer, which is written in the next turn of the loop.
        asyncio.get_running_loop().call_soon(self._follow, result.cursor)
        return result

    def _follow(self, cursor: str) -> None:
        if self._closed:
            self._following.decline(self)
        else:
            self._following.start(self, cursor)

    def _control_answered(self, frame: bytes) -> None:
        if not self._closed:
            self._out.append(frame)
            self.flush()

    def _break(self, error: HsmdError) -> None:
        """Send the peer this error, and end the channel."""
        log.warning("session.broken", client=self.identity.client, error=error.text)
        self._channel.close()
        self._unfinished_since = None
        self._unread_since = self._clock()  # drops a peer that does not close its end, as if it did not read
        self._abandon()
        self._out.append(encode_error(0, error))
        self.flush()
        self._closed = True
        self._following.stop(self)
        self._transport.close()

    def _abandon(self) -> None:
        """Give up what is open."""
        requests = [request for request in self.open_requests.values() if request is not None]
        self.open_requests.clear()
        self._control.cancel_all()
        self._service.abandon(requests)
