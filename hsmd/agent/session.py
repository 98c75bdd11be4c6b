"""One local connection: the server's end of the protocol on the Unix socket. Key operations are forwarded unchanged.

It limits open requests, and how long a frame may stay unfinished, answers unread, or the connection idle.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from functools import partial
from typing import Any

from hsmd import observe
from hsmd.agent.service import Service
from hsmd.agent.sessions import MAX_OPEN_OF_USER, Sessions
from hsmd.agent.upstream import Cancellable
from hsmd.errors import (
    DeadlineExceeded,
    Draining,
    ErrorCode,
    HsmdError,
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
from hsmd.system.control_requests import ControlRequests

MAX_OPEN_REQUESTS = 64
"""Open requests of one connection."""
HALF_FRAME_S = 5.0
"""How long a client may take to finish a frame, or to send its hello."""
UNREAD_S = 5.0
"""How long a client may leave answers unread before it is dropped."""
IDLE_S = 60.0
"""How long a connection without open requests is kept."""
RETRY_S = 0.020
"""After this time a client with too many open requests may try again."""
_PEER = struct.Struct("=iII")
"""struct ucred: pid, uid, gid (unix(7), SO_PEERCRED)."""
_PURPOSES = {int(purpose): purpose.label for purpose in Purpose}

_OVERLOADED = error_body(Overloaded.retry_in(RETRY_S))
_DRAINING = error_body(Draining())

log = observe.logger()


class Session(asyncio.Protocol):
    """One connection of one user."""

    def __init__(self, service: Service, sessions: Sessions) -> None:
        self._service = service
        self._sessions = sessions
        self._channel = ServerChannel(Capability.CONTROL, MAX_OPEN_REQUESTS)
        self._open: dict[int, Cancellable] = {}
        self._out: list[bytes] = []
        self._reading = False
        self._heard = sessions.clock()
        self._unread_since: float | None = None
        self._closed_since: float | None = None
        self._admitted = False
        self._uid = -1

    # --- called by the event loop ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        # The credentials of the process that called connect(2); passing the descriptor on does not change them.
        peer = transport.get_extra_info("socket").getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size
        )
        self._uid = _PEER.unpack(peer)[1]
        self._control = ControlRequests(self._carry_out, self._write, uid=self._uid)
        self._admitted = self._sessions.admit(self, self._uid)
        if not self._admitted:
            self._break(Overloaded.retry_in(RETRY_S))

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
        # The welcome is sent together with the first answer: a client that pipelined its request wakes up once.
        if not greeting or len(self._out) > 1 or not (self._open or self._control.open):
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
        self._control.cancel_all()
        if self._admitted:
            self._sessions.remove(self, self._uid)

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
        if not self._admit(request_id):
            return
        deadline_ms, purpose, _, key = decode_key_operation_head(body)
        if key not in self._service.keys_for(self._uid):
            self._write(encode_error(request_id, self._service.missed(self._uid)))
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

    def _admit(self, request_id: int) -> bool:
        """Whether a request may be opened; if not, it is answered here. Raises ProtocolError if its id is in use."""
        if request_id in self._open or request_id in self._control.open:
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
        """Answer at once: the protocol requires an answer to every request."""
        ticket = self._open.pop(request_id, None)
        if ticket is not None:
            ticket.cancel()
            self._sessions.count(self._uid, -1)
            self._write(encode_error(request_id, DeadlineExceeded("cancelled")))
        else:
            self._control.cancel(request_id)

    def _control_request(self, request_id: int, body: bytes) -> None:
        deadline_ms, document = decode_control_request(body)
        if not self._admit(request_id):
            return
        if self._control.full:
            self._write(encode(Kind.ERROR, request_id, _OVERLOADED))
            return
        self._control.start(request_id, deadline_ms, document)

    async def _carry_out(self, request: messages.Request, timeout_s: float) -> Any:
        return await self._service.control(self._uid, request)

    # --- limits and closing ---

    def check(self, now: float) -> None:
        """Drop a client that has left a frame unfinished, or answers unread, or was idle for too long."""
        quiet_s = now - self._heard
        since = self._closed_since or self._unread_since
        if since is not None and now - since > UNREAD_S:
            log.warning("session.unread", uid=self._uid)
            self._transport.abort()
        elif self._closed_since is not None:
            return
        elif self._channel.unfinished and quiet_s > HALF_FRAME_S:
            self._break(ProtocolError("a frame, or the hello, was left unfinished for too long"))
        elif quiet_s > IDLE_S and not self._open and not self._control.open:
            self.close()

    def drain(self, grace_ms: int) -> None:
        """Announce that the agent stops."""
        if self._channel.state is State.OPEN:
            self._write(encode_drain(grace_ms))

    def close(self) -> None:
        """Close once what is written has been sent; a client that does not read it is dropped by `check`."""
        self._closed_since = self._sessions.clock()
        self._transport.close()

    def _write(self, frame: bytes) -> None:
        """Send a frame; the immediate answers to the frames of one read are sent in one piece."""
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
