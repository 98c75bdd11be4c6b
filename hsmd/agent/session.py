"""One local connection: the server's end of the protocol on the Unix socket. Key operations are forwarded unchanged.

It limits open requests, and how long a frame may stay unfinished, answers unread, or the connection idle.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from hsmd import observe
from hsmd.agent.service import Service
from hsmd.agent.sessions import (
    ASKED_OF_DAEMON,
    BROKEN,
    MAX_HELD_OF_USER,
    MAX_OPEN_OF_USER,
    MAX_UNREAD_OF_USER,
    REFUSED_BY_DAEMON,
    RETRY_S,
    UNUSED_CONNECTION,
    LocalUser,
    Sessions,
)
from hsmd.agent.upstream import Cancellable
from hsmd.client.channel import Answered
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
FRAMES_AT_A_TIME = 32
"""Frames that are handled before it is looked at again whether the user's turn is over."""
HALF_FRAME_S = 5.0
"""How long a client may take to finish a frame, or to send its hello."""
UNREAD_S = 5.0
"""How long a client may leave answers unread before it is dropped."""
IDLE_S = 60.0
"""How long a connection without open requests is kept."""
UNREAD_BYTES = 4 << 10
"""A client with more unread answers than this, and what the kernel takes, is not read."""
_PURPOSES = {int(purpose): purpose.label for purpose in Purpose}

_OVERLOADED = error_body(Overloaded.retry_in(RETRY_S))
_DRAINING = error_body(Draining())

log = observe.logger()


class Session(asyncio.BufferedProtocol):
    """One connection of one user, which the acceptor has admitted."""

    def __init__(self, service: Service, sessions: Sessions, user: LocalUser) -> None:
        self._service = service
        self._sessions = sessions
        self._user = user
        self._intake = user.intake
        self._uid = user.uid
        self._channel = ServerChannel(Capability.CONTROL, MAX_OPEN_REQUESTS)
        self._open: dict[int, Cancellable] = {}
        self._control = ControlRequests(self._carry_out, self._write, intake=user.intake, uid=user.uid)
        self._out: list[bytes] = []
        self._reading = False
        self._refusals = self._forwarded = 0
        self._heard = sessions.clock()
        self._unfinished_since: float | None = self._heard
        self._held = 0
        self._waiting = False
        self._used = False
        self._unread = 0
        self._unread_since: float | None = None
        self._closed_since: float | None = None

    # --- called by the event loop ---

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._transport.set_write_buffer_limits(UNREAD_BYTES)
        self._sessions.add(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._sessions.read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._heard = self._sessions.clock()
        self._intake.charge(byte_count=nbytes)
        self._handle_received(bytes(self._sessions.read_buffer[:nbytes]))

    def pause_writing(self) -> None:
        self._unread_since = self._sessions.clock()
        self._transport.pause_reading()
        self._count_unread()

    def resume_writing(self) -> None:
        self._unread_since = None
        self._count_unread()
        if not self._waiting:
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._channel.close()
        # The latest first: what waits in the agent would otherwise be sent in place of what is at a daemon.
        for ticket in reversed(self._open.values()):
            self._give_up(ticket)
        self._open.clear()
        self._control.cancel_all()
        self._user.held -= self._held
        self._user.unread -= self._unread
        self._held = self._unread = 0
        self._sessions.remove(self)
        if not self._used:
            self._intake.spend(UNUSED_CONNECTION)
        self._sessions.release(self._user)

    # --- turns ---

    def _handle_received(self, data: bytes) -> None:
        """Handle what may be handled now, of `data` and of what was left before; wait for the next turn with the rest."""
        greeting = self._channel.state is State.GREETING
        self._reading = True
        try:
            at_most = min(FRAMES_AT_A_TIME, self._intake.frames_now())
            while True:
                self._handle_some(data, at_most)
                data = b""
                if not self._channel.more or not at_most:
                    break
                at_most = min(FRAMES_AT_A_TIME, self._intake.frames_now())
        except (ProtocolError, VersionMismatch) as error:
            self._break(error)
        self._reading = False
        # The welcome is sent together with the first answer: a client that pipelined its request wakes up once.
        if not greeting or len(self._out) > 1 or not (self._open or self._control.open):
            self._flush()
        self._hold()
        if (self._channel.more or not at_most) and not self._ended:
            self._waiting = True
            self._transport.pause_reading()
            self._intake.wait(self._go_on)

    def _handle_some(self, data: bytes, at_most: int) -> None:
        greeting = self._channel.state is State.GREETING
        received = self._channel.receive(data, at_most)
        if not self._channel.unfinished:
            self._unfinished_since = None
        elif self._unfinished_since is None or received:
            self._unfinished_since = self._heard
        if greeting and self._channel.state is State.OPEN:
            self._out.append(encode_welcome(self._channel.welcome()))
            del received[0]
        self._refusals = self._forwarded = 0
        self._handle(received)
        frames = self._channel.taken - self._forwarded
        self._intake.charge(frames=frames, refusals=self._refusals, key_operations=self._forwarded)
        if data and not self._forwarded:
            self._intake.spend(self._intake.account.packet)

    def _go_on(self) -> None:
        """The user has its turn again."""
        self._waiting = False
        if self._ended:
            return
        self._heard = self._sessions.clock()
        self._handle_received(b"")
        if not self._waiting and self._unread_since is None:
            self._transport.resume_reading()

    @property
    def _ended(self) -> bool:
        return self._closed_since is not None or self._transport.is_closing()

    def _hold(self) -> None:
        """Count what was received and not handled; a user that holds too much loses this connection."""
        held = self._channel.held
        self._user.held += held - self._held
        self._held = held
        if held and self._user.held > MAX_HELD_OF_USER and not self._ended:
            self._break(Overloaded.retry_in(RETRY_S))

    def _count_unread(self) -> None:
        """Count the answers that wait here; a user that leaves too much unread loses this connection."""
        unread = 0 if self._unread_since is None else self._transport.get_write_buffer_size()
        self._user.unread += unread - self._unread
        self._unread = unread
        if unread and self._user.unread > MAX_UNREAD_OF_USER:
            log.warning("session.unread", uid=self._uid)
            self._transport.abort()

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
            self._refusals += 1
            self._service.count(ErrorCode.REFUSED)
            self._write(encode_error(request_id, self._service.missed(self._uid)))
            return
        if not self._sessions.may_open(self._user):
            self._service.count(ErrorCode.OVERLOADED)
            self._refuse(request_id, _OVERLOADED)
            return
        try:
            answered = partial(self._answered, request_id, purpose)
            self._open[request_id] = self._forward(body, deadline_ms, answered)
        except HsmdError as error:
            if isinstance(error, Overloaded):
                self._sessions.overloaded()
            self._service.count(error.code)
            self._refusals += 1
            self._write(encode_error(request_id, error))
        else:
            self._used = True
            self._forwarded += 1
            self._sessions.count(self._user, 1)

    def _forward(self, body: bytes, deadline_ms: int, answered: Answered) -> Cancellable:
        if self._user.line or not self._sessions.may_send(self._user):
            return self._user.line.add(self._service.forward, body, deadline_ms, answered)
        return self._service.forward(body, deadline_ms, answered)

    def _answered(self, request_id: int, purpose: int, kind: int, body: bytes) -> None:
        ticket = self._open.pop(request_id)
        if kind != Kind.ERROR:
            self._sessions.count(self._user, -1)
            self._sessions.served()
            self._service.count(0)
        else:
            self._release(ticket)
            body = self._failed(purpose, body)
        self._write(encode(kind, request_id, body))

    def _failed(self, purpose: int, body: bytes) -> bytes:
        """The error that the user gets for an error of the daemon."""
        code = error_code(body)
        self._service.count(code)
        if code == ErrorCode.OVERLOADED:
            self._sessions.overloaded()
        if code != ErrorCode.REFUSED:
            return body
        self._user.intake.spend(REFUSED_BY_DAEMON)
        return error_body(self._service.refused(_PURPOSES.get(purpose, f"purpose {purpose}")))

    def _admit(self, request_id: int) -> bool:
        """Whether a request may be opened; if not, it is answered here. Raises ProtocolError if its id is in use."""
        if request_id in self._open or request_id in self._control.open:
            raise ProtocolError(f"request id {request_id} is still open")
        if self._sessions.draining:
            self._refuse(request_id, _DRAINING)
        elif len(self._open) >= MAX_OPEN_REQUESTS or self._user.open_requests >= MAX_OPEN_OF_USER:
            self._refuse(request_id, _OVERLOADED)
        else:
            return True
        return False

    def _refuse(self, request_id: int, body: bytes) -> None:
        self._refusals += 1
        self._write(encode(Kind.ERROR, request_id, body))

    def _cancel(self, request_id: int) -> None:
        """Answer at once: the protocol requires an answer to every request."""
        ticket = self._open.pop(request_id, None)
        if ticket is not None:
            self._give_up(ticket)
            self._write(encode_error(request_id, DeadlineExceeded("cancelled")))
        else:
            self._control.cancel(request_id)

    def _give_up(self, ticket: Cancellable) -> None:
        ticket.cancel()
        if not self._release(ticket):
            # No daemon has seen it, whose limits would bound how many there are.
            self._intake.charge(refusals=1)

    def _release(self, ticket: Cancellable) -> bool:
        """Count a request until the daemon has answered: what was cancelled or is late has a place there until then.

        Return whether the daemon still owes an answer.
        """
        owed = ticket.when_settled(self._settled)
        if not owed:
            self._sessions.count(self._user, -1)
        return owed

    def _settled(self, kind: int, body: bytes) -> None:
        """The daemon has answered what is not awaited any more."""
        if kind == Kind.ERROR and error_code(body) == ErrorCode.REFUSED:
            self._user.intake.spend(REFUSED_BY_DAEMON)
        self._sessions.count(self._user, -1)

    def _control_request(self, request_id: int, body: bytes) -> None:
        deadline_ms, document = decode_control_request(body)
        if not self._admit(request_id):
            return
        if self._control.full:
            self._refuse(request_id, _OVERLOADED)
            return
        self._intake.charge(control_requests=1)
        self._control.start(request_id, deadline_ms, document)

    async def _carry_out(self, request: messages.Request, timeout_s: float) -> Any:
        if isinstance(request, messages.KeyShow | messages.CertificateExport):
            self._intake.spend(ASKED_OF_DAEMON)
        return await self._service.control(self._uid, request)

    # --- limits and closing ---

    def check(self, now: float) -> None:
        """Drop a client that has left a frame unfinished, or answers unread, or was idle for too long."""
        if self._waiting:
            # What it has sent meanwhile is not read before its user has its turn again.
            self._heard = now
            self._unfinished_since = self._unfinished_since and now
        quiet_s = now - self._heard
        since = self._closed_since or self._unread_since
        if since is not None and now - since > UNREAD_S:
            log.warning("session.unread", uid=self._uid)
            self._transport.abort()
        elif self._closed_since is not None:
            return
        elif self._unfinished_since is not None and now - self._unfinished_since > HALF_FRAME_S:
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
            if self._unread_since is not None:
                self._count_unread()

    def _break(self, error: HsmdError) -> None:
        self._intake.spend(BROKEN)
        log.warning("session.broken", uid=self._uid, error=error.text)
        self._channel.close()
        self._out.append(encode_error(0, error))
        self._flush()
        self.close()
