"""One local connection: the server's end of the protocol on the Unix socket. Key operations go upstream as they came.

What one user can hold is bounded: connections, open requests, half a frame, unread answers, and idle time.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol

from hsmd import observe
from hsmd.agent.upstream import Cancellable
from hsmd.client.channel import Answered
from hsmd.errors import (
    DeadlineExceeded,
    Draining,
    ErrorCode,
    HsmdError,
    InternalFault,
    Overloaded,
    ProtocolError,
    VersionMismatch,
)
from hsmd.protocol import messages
from hsmd.protocol.channel import ServerChannel, State
from hsmd.protocol.frames import (
    Capability,
    Frame,
    Kind,
    decode_control_request,
    decode_key_operation_head,
    encode,
    encode_drain,
    encode_error,
    encode_welcome,
    error_body,
    error_code,
)
from hsmd.purposes import Purpose

MAX_CONNECTIONS = 8_192
MAX_CONNECTIONS_OF_USER = 2_048
MAX_OPEN_REQUESTS = 64
"""Open requests of one connection."""
MAX_OPEN_OF_USER = 256
"""Open requests of one user: half of what a daemon takes by default, so that others always find room."""
MAX_CONTROL_REQUESTS = 8
HALF_FRAME_S = 5.0
UNREAD_S = 5.0
IDLE_S = 60.0
RETRY_MS = 20
_PEER = struct.Struct("=iII")
"""struct ucred: pid, uid, gid (unix(7), SO_PEERCRED)."""
_PURPOSES = {int(purpose): purpose.label for purpose in Purpose}

_OVERLOADED = error_body(Overloaded(retry_after_ms=RETRY_MS))
_DRAINING = error_body(Draining())

log = observe.logger()


class Service(Protocol):
    """What sessions need from the agent."""

    def keys_for(self, uid: int) -> frozenset[bytes]:
        """Digests of the keys a user may use."""

    def missed(self, uid: int, key: bytes) -> HsmdError:
        """The answer to a user that asked for a key which it may not use, or which we do not know."""

    def refused(self, purpose: str) -> HsmdError:
        """The answer where the daemon refused, which never says why, to use a key that we know."""

    def forward(self, body: bytes, deadline_ms: int, answered: Answered) -> Cancellable: ...

    async def control(self, uid: int, request: messages.Request) -> Any: ...


class Sessions:
    """All local connections, what their users hold, and the time limits."""

    def __init__(self, service: Service, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.service = service
        self.clock = clock
        self.draining = False
        self.drained = asyncio.Event()
        """Set when, after `drain`, nobody waits for an answer any more."""
        self.open_requests: Counter[int] = Counter()
        self._connections: Counter[int] = Counter()
        self._all: set[Session] = set()

    def admit(self, session: Session, uid: int) -> bool:
        """Whether one more connection of this user is fine; it is counted then."""
        if len(self._all) >= MAX_CONNECTIONS or self._connections[uid] >= MAX_CONNECTIONS_OF_USER:
            return False
        self._all.add(session)
        self._connections[uid] += 1
        return True

    def gone(self, session: Session, uid: int) -> None:
        self._all.discard(session)
        self._connections[uid] -= 1
        if not self._connections[uid]:
            del self._connections[uid]

    def check(self) -> None:
        """Enforce the time limits; called about once a second."""
        now = self.clock()
        for session in list(self._all):
            session.check(now)

    def drain(self, grace_ms: int) -> None:
        """Take nothing new."""
        self.draining = True
        for session in list(self._all):
            session.drain(grace_ms)
        self._check_drained()

    def count(self, uid: int, change: int) -> None:
        """Keep the number of a user's open requests."""
        self.open_requests[uid] += change
        if not self.open_requests[uid]:
            del self.open_requests[uid]
            self._check_drained()

    def _check_drained(self) -> None:
        if self.draining and not self.open_requests:
            self.drained.set()

    def close(self) -> None:
        """End every connection."""
        for session in list(self._all):
            session.close()

    def __len__(self) -> int:
        return len(self._all)


class Session(asyncio.Protocol):
    """One connection of one user."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._service = sessions.service
        self._channel = ServerChannel(Capability.CONTROL, MAX_OPEN_REQUESTS)
        self._open: dict[int, Cancellable] = {}
        self._control: dict[int, asyncio.Task[None]] = {}
        self._out: list[bytes] = []
        self._reading = False
        self._heard = sessions.clock()
        self._unread_since: float | None = None
        self._closed_since: float | None = None
        self._admitted = False
        self._uid = -1

    # --- what the event loop calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        # The credentials of whoever called connect(2); passing the descriptor on does not change them.
        peer = transport.get_extra_info("socket").getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size
        )
        self._uid = _PEER.unpack(peer)[1]
        self._admitted = self._sessions.admit(self, self._uid)
        if not self._admitted:
            self._break(Overloaded(retry_after_ms=RETRY_MS))

    def data_received(self, data: bytes) -> None:
        self._heard = self._sessions.clock()
        greeting = self._channel.state is State.GREETING
        self._reading = True
        try:
            frames = self._channel.receive(data)
            if greeting and self._channel.state is State.OPEN:
                self._out.append(encode_welcome(self._channel.welcome()))
                del frames[0]
            self._handle(frames)
        except (ProtocolError, VersionMismatch) as error:
            self._break(error)
        self._reading = False
        # A welcome leaves together with the first answer: a peer that pipelined its request wakes up once.
        if not greeting or len(self._out) > 1 or not (self._open or self._control):
            self._flush()

    def pause_writing(self) -> None:
        self._unread_since = self._sessions.clock()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._unread_since = None
        self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._channel.close()
        for ticket in self._open.values():
            ticket.cancel()
        if self._open:
            self._sessions.count(self._uid, -len(self._open))
            self._open.clear()
        for task in self._control.values():
            task.cancel()
        if self._admitted:
            self._sessions.gone(self, self._uid)

    # --- frames ---

    def _handle(self, frames: list[Frame]) -> None:
        for kind, request_id, body in frames:
            if kind == Kind.KEY_OPERATION:
                self._use_key(request_id, body)
            elif kind == Kind.CONTROL_REQUEST:
                self._control_request(request_id, body)
            elif kind == Kind.PING:
                self._write(encode(Kind.PONG, request_id))
            elif kind == Kind.CANCEL:
                self._cancel(request_id)

    def _use_key(self, request_id: int, body: bytes) -> None:
        if not self._has_room(request_id):
            return
        deadline_ms, purpose, _, key = decode_key_operation_head(body)
        if key not in self._service.keys_for(self._uid):
            self._write(encode_error(request_id, self._service.missed(self._uid, key)))
            return
        try:
            answered = partial(self._answered, request_id, purpose)
            self._open[request_id] = self._service.forward(body, deadline_ms, answered)
        except HsmdError as error:
            self._write(encode_error(request_id, error))
        else:
            self._sessions.count(self._uid, 1)

    def _answered(self, request_id: int, purpose: int, kind: int, body: bytes) -> None:
        del self._open[request_id]
        self._sessions.count(self._uid, -1)
        if kind == Kind.ERROR and error_code(body) == ErrorCode.REFUSED:
            body = error_body(self._service.refused(_PURPOSES.get(purpose, f"purpose {purpose}")))
        self._write(encode(kind, request_id, body))

    def _has_room(self, request_id: int) -> bool:
        """Whether a request may be opened; if not, it has been answered. Raises ProtocolError if its id is in use."""
        if request_id in self._open or request_id in self._control:
            raise ProtocolError(f"request id {request_id} is still open")
        if self._sessions.draining:
            self._write(encode(Kind.ERROR, request_id, _DRAINING))
        elif (
            len(self._open) >= MAX_OPEN_REQUESTS
            or self._sessions.open_requests[self._uid] >= MAX_OPEN_OF_USER
        ):
            self._write(encode(Kind.ERROR, request_id, _OVERLOADED))
        else:
            return True
        return False

    def _cancel(self, request_id: int) -> None:
        """The peer still gets an answer, as the protocol demands, and at once."""
        ticket = self._open.pop(request_id, None)
        if ticket is not None:
            ticket.cancel()
            self._sessions.count(self._uid, -1)
            self._write(encode_error(request_id, DeadlineExceeded("cancelled")))
        elif request_id in self._control:
            self._control[request_id].cancel()

    # --- control requests ---

    def _control_request(self, request_id: int, body: bytes) -> None:
        deadline_ms, document = decode_control_request(body)
        if not self._has_room(request_id):
            return
        if len(self._control) >= MAX_CONTROL_REQUESTS:
            self._write(encode(Kind.ERROR, request_id, _OVERLOADED))
            return
        answer = self._control_answer(request_id, deadline_ms / 1000, document)
        task = asyncio.get_running_loop().create_task(self._carry_out(request_id, answer))
        self._control[request_id] = task

    async def _carry_out(self, request_id: int, answer: Coroutine[Any, Any, bytes]) -> None:
        try:
            frame = await answer
        except asyncio.CancelledError:
            frame = encode_error(request_id, DeadlineExceeded("cancelled"))
        finally:
            self._control.pop(request_id, None)
        self._write(frame)

    async def _control_answer(self, request_id: int, timeout_s: float, document: bytes) -> bytes:
        try:
            async with asyncio.timeout(timeout_s):
                request = messages.decode_request(document)
                result = await self._service.control(self._uid, request)
                return encode(Kind.CONTROL_RESULT, request_id, messages.encode_result(result))
        except TimeoutError:
            return encode_error(request_id, DeadlineExceeded())
        except HsmdError as error:
            return encode_error(request_id, error)
        except (
            Exception
        ) as error:  # the supervisor of control requests: a bug ends one request, not the agent
            log.error("control.fault", uid=self._uid, exc_info=error)
            return encode_error(request_id, InternalFault())

    # --- limits and the end ---

    def check(self, now: float) -> None:
        """Drop a peer that holds half a frame, leaves answers unread, or does nothing for too long."""
        quiet_s = now - self._heard
        since = self._closed_since or self._unread_since
        if since is not None and now - since > UNREAD_S:
            log.warning("session.unread", uid=self._uid)
            self._transport.abort()
        elif self._closed_since is not None:
            return
        elif self._channel.unfinished and quiet_s > HALF_FRAME_S:
            self._break(ProtocolError("a frame, or the hello, was left unfinished for too long"))
        elif quiet_s > IDLE_S and not self._open and not self._control:
            self.close()

    def drain(self, grace_ms: int) -> None:
        """Tell the peer that the agent goes."""
        if self._channel.state is State.OPEN:
            self._write(encode_drain(grace_ms))

    def close(self) -> None:
        """End the connection once what was written has left; a peer that does not read it is dropped later."""
        self._closed_since = self._sessions.clock()
        self._transport.close()

    def _write(self, frame: bytes) -> None:
        """What the frames of one read are answered with at once leaves in one piece."""
        self._out.append(frame)
        if not self._reading:
            self._flush()

    def _flush(self) -> None:
        if self._out:
            out, self._out = self._out, []
            self._transport.write(b"".join(out))

    def _break(self, error: HsmdError) -> None:
        log.warning("session.broken", uid=self._uid, error=error.text)
        self._channel.close()
        self._out.append(encode_error(0, error))
        self._flush()
        self.close()
