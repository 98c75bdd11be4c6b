"""Bytes of a peer on their way in and out: session channels, and how much of a connection is handled at a time.

asyncssh ignores a transport that is full, so it would buffer answers without limit for a peer that never reads. It handles all
packets of a read in one turn of the loop, so a peer that sends many tiny ones would delay all others. `Flow` stops reading from
the socket for a while in both cases, and drops a peer that keeps exchanging keys. From the login on each packet is charged to
the client, whatever it contains, and handled as the intake of the client allows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import asyncssh

from hsmd.daemon.front.ssh.session import Session, Transport
from hsmd.system.intake import Intake
from hsmd.system.ssh_profile import (
    SUBSYSTEM,
    packet_handling,
    refuse_environment,
    replace_packet_handling,
)

PACKETS_A_TURN = 32
"""Packets of one connection handled in one turn of the loop. Usually a single one has all requests of a peer."""
KEY_EXCHANGES = 10
KEY_EXCHANGES_S = 60.0
"""At most `KEY_EXCHANGES` in this time: each costs a signature and two key agreements. An ordinary peer needs one in minutes."""


class Flow:
    """Flow control of one asyncssh connection. `unread_since` (monotonic) is when the peer stopped reading, None if it reads."""

    def __init__(self, conn: Any, drop: Callable[[str], None]) -> None:
        self.unread_since: float | None = None
        original = packet_handling(conn)
        self._transport = original.transport
        self._handle_packets = original.handle_received
        self._handle_packet = original.handle_packet
        self._loop = asyncio.get_running_loop()
        self._left = PACKETS_A_TURN
        self._intake: Intake | None = None
        self._waiting = False
        self._held = 0
        self._deferred = False
        self._answer_kexinit = original.exchange_keys
        self._drop = drop
        self._exchanges, self._exchanges_since = 0, time.monotonic()
        replace_packet_handling(
            conn,
            handle_packet=self._packet,
            exchange_keys=self._kexinit,
            pause_writing=self._peer_lags,
            resume_writing=self._peer_reads,
        )

    def admitted(self, intake: Intake) -> None:
        """The peer has logged in: its packets are charged to its client from now on."""
        self._intake = intake

    def hold(self) -> None:
        """Handle no packet until `release` was called as often: what has come is not finished."""
        self._held += 1
        self._apply()

    def release(self) -> None:
        self._held -= 1
        if not self._held and self._deferred:
            self._wait()
        self._apply()

    def _packet(self) -> bool:
        """In place of asyncssh's: handle one packet, or return False for "not now"."""
        if self._held:
            self._deferred = True
            return False
        if self._waiting:
            return False
        if self._left > 0 and (self._intake is None or self._intake.take_packet()):
            self._left -= 1
            return bool(self._handle_packet())
        self._wait()
        self._apply()
        return False

    def _wait(self) -> None:
        self._waiting = True
        if self._intake is None:
            self._loop.call_soon(self._next_turn)
        else:
            self._intake.wait(self._next_turn)

    def _kexinit(self) -> None:
        """In place of asyncssh's: begin or answer a key exchange (RFC 4253, section 9)."""
        now = time.monotonic()
        if now - self._exchanges_since > KEY_EXCHANGES_S:
            self._exchanges, self._exchanges_since = 0, now
        self._exchanges += 1
        if self._exchanges > KEY_EXCHANGES:
            self._drop("too many key exchanges")
            return
        self._answer_kexinit()

    def _next_turn(self) -> None:
        self._left, self._waiting, self._deferred = PACKETS_A_TURN, False, False
        if not self._transport.is_closing():
            self._handle_packets()
        self._apply()

    def _peer_lags(self) -> None:
        self.unread_since = time.monotonic()
        self._apply()

    def _peer_reads(self) -> None:
        self.unread_since = None
        self._apply()

    def _apply(self) -> None:
        if self._transport.is_closing():
            return
        if self._waiting or self._held or self.unread_since is not None:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()


class SshChannel(asyncssh.SSHServerSession[bytes]):
    """One session channel, and the `Transport` of its session. It accepts a request for the subsystem `hsmd`, and no other."""

    def __init__(
        self,
        open_session: Callable[[Transport], Session],
        flow: Flow,
        drop: Callable[[str], None],
        closed: Callable[[SshChannel], None],
    ) -> None:
        """`drop` ends the connection for a reason; `closed` is called when the channel has ended."""
        self._open_session = open_session
        self.hold, self.release = flow.hold, flow.release
        self._drop = drop
        self._closed = closed
        self._session: Session | None = None

    def connection_made(self, chan: Any) -> None:
        self.write = chan.write
        self.pause_reading = chan.pause_reading
        self.resume_reading = chan.resume_reading
        self.close = chan.close
        refuse_environment(chan)

    def abort(self) -> None:
        """End the connection: a channel alone closes only when its peer agrees."""
        self._drop("a session was dropped")

    def subsystem_requested(self, subsystem: str) -> bool:
        return subsystem == SUBSYSTEM

    def session_started(self) -> None:
        self._session = self._open_session(self)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if self._session is not None and datatype is None:
            self._session.received(data)

    def eof_received(self) -> bool:
        """Stay open for answers: the peer will send no more requests."""
        return True

    def pause_writing(self) -> None:
        if self._session is not None:
            self._session.pause_writing()

    def resume_writing(self) -> None:
        if self._session is not None:
            self._session.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed(self)
        if self._session is not None:
            self._session.lost()
