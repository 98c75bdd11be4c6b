"""Bytes of a peer on their way in and out: session channels, and how much of a connection is handled at a time.

asyncssh ignores a transport that is full, so it would buffer answers without limit for a peer that never reads. It handles all
packets of a read in one turn of the loop, so a peer that sends many tiny ones would delay all others. `Flow` stops reading from
the socket for a while in both cases, and drops a peer that keeps exchanging keys. Before the login, packets wait for their turns
(`login_turns.py`); from the login on each is charged to the client, whatever it contains, and handled as the client's intake
allows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Any

from hsmd.daemon.front.ssh.login_turns import LoginTurns
from hsmd.daemon.front.ssh.session import UNREAD_S, Session, Transport
from hsmd.daemon.front.ssh.tariff import KEY_EXCHANGE
from hsmd.system.intake import Intake
from hsmd.system.sockets import peer_has_closed
from hsmd.system.ssh_library import asyncssh
from hsmd.system.ssh_profile import (
    SUBSYSTEM,
    deliver_at_once,
    exchanges_keys,
    packet_handling,
    refuse_environment,
    replace_packet_handling,
    send_ignore_packet,
    sent_together,
)

PACKETS_A_TURN = 32
"""Packets of one connection handled in one turn of the loop. Usually a single one has all requests of a peer."""
PACKETS_BEFORE_LOGIN = 200
"""Most packets of a peer until it has logged in: ordinary ones need about twelve."""
KEY_EXCHANGES = 10
KEY_EXCHANGES_S = 60.0
"""At most `KEY_EXCHANGES` in this time: each costs a signature and two key agreements. An ordinary peer needs one in minutes."""
EXCHANGE_S = 10.0
"""How long a key exchange may take: until it is complete, asyncssh keeps what is to be sent."""
WINDOW_BYTES = 128 << 10
"""What a peer may send on a channel that is not read: enough for more requests than a token can answer in a round trip."""
UNREAD_BYTES = 16 << 10
"""A channel with more answers that its peer has not taken is not read."""


class Flow:
    """Flow control of one asyncssh connection. `unread_since` (monotonic) is when the peer stopped reading, None if it reads."""

    def __init__(
        self,
        conn: Any,
        drop: Callable[[str], None],
        channels: Collection[SshChannel] = (),
        turns: LoginTurns | None = None,
        source: str = "",
    ) -> None:
        """`drop` ends the connection for a reason; `channels` are those that are open.

        `turns`: those of connections that have not logged in, which packets from this `source` wait for until `admitted`.
        """
        self._turns = turns
        self._source = source
        self.unread_since: float | None = None
        self.exchanging_since: float | None = None
        """When the key exchange began that is not complete."""
        self._conn = conn
        self._channels = channels
        self._counted = 0
        original = packet_handling(conn)
        self._transport = original.transport
        self._handle_packets = original.handle_received
        self._handle_packet = original.handle_packet
        self._loop = asyncio.get_running_loop()
        self._left = PACKETS_A_TURN
        self._before_login = 0
        self._intake: Intake | None = None
        self._waiting = False
        self._held = 0
        self._deferred = False
        self._deferred_bytes = 0
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

    def lost(self) -> None:
        """The connection has ended: its client holds nothing here any more."""
        if self._intake is not None:
            self._intake.hold(-self._counted)
            self._counted = 0

    def count(self) -> None:
        """Count again what is held for this connection, and drop it if its client makes the daemon hold too much."""
        if self._intake is None:
            return
        held = self._transport.get_write_buffer_size() + self._deferred_bytes
        held += sum(channel.held_bytes for channel in self._channels)
        change, self._counted = held - self._counted, held
        if not self._intake.hold(change) and change > 0:
            self._drop("its client leaves too much unread or unfinished")

    def written(self, byte_count: int) -> None:
        """A channel has written an answer."""
        if exchanges_keys(self._conn):
            self._deferred_bytes += byte_count
        elif self._deferred_bytes:
            self._deferred_bytes = 0
        elif self.unread_since is None:
            return
        self.count()

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
        if self._left > 0 and self._take():
            self._left -= 1
            if self._intake is not None:
                return bool(self._handle_packet())
            return self._may_log_in() and self._handle_before_login()
        self._wait()
        self._apply()
        return False

    def _may_log_in(self) -> bool:
        """Count a packet of a peer that has not logged in; drop the peer after too many."""
        self._before_login += 1
        if self._before_login <= PACKETS_BEFORE_LOGIN:
            return True
        self._drop("too many packets before the login")
        return False

    def _handle_before_login(self) -> bool:
        with sent_together(self._conn):
            return bool(self._handle_packet())

    def _take(self) -> bool:
        """Whether a packet may be handled now."""
        if self._intake is not None:
            return self._intake.take_packet()
        return self._turns is None or self._turns.take()

    def _wait(self) -> None:
        self._waiting = True
        if self._intake is not None:
            self._intake.wait(self._next_turn)
        elif self._turns is not None:
            self._turns.wait(self._source, self._next_turn)
        else:
            self._loop.call_soon(self._next_turn)

    def _kexinit(self) -> None:
        """In place of asyncssh's: begin or answer a key exchange (RFC 4253, section 9)."""
        now = time.monotonic()
        if now - self._exchanges_since > KEY_EXCHANGES_S:
            self._exchanges, self._exchanges_since = 0, now
        self._exchanges += 1
        if self._exchanges > KEY_EXCHANGES:
            self._drop("too many key exchanges")
            return
        self.exchanging_since = now
        if self._intake is not None:
            self._intake.spend(KEY_EXCHANGE)
        self._answer_kexinit()

    def check(self, now: float) -> str:
        """Why the connection has to end at this time (monotonic); empty if it has not."""
        if self._is_paused:
            if peer_has_closed(self._transport):
                return "its peer has closed it, and what it sent before is not worth reading"
            self._ask_for_peer()
        if self.unread_since is not None and now - self.unread_since > UNREAD_S:
            return "answers were left unread for too long"
        if self.exchanging_since is None or not exchanges_keys(self._conn):
            self.exchanging_since = None
        elif now - self.exchanging_since > EXCHANGE_S:
            return "a key exchange took too long"
        return ""

    def _ask_for_peer(self) -> None:
        """Find out by the next check whether the peer is there: what it sent and we do not read may hide that it has gone."""
        if self._intake is not None and self.unread_since is None and not exchanges_keys(self._conn):
            send_ignore_packet(self._conn)

    def _next_turn(self) -> None:
        self._left, self._waiting, self._deferred = PACKETS_A_TURN, False, False
        if not self._transport.is_closing():
            self._handle_packets()
        self._apply()

    def _peer_lags(self) -> None:
        self.unread_since = time.monotonic()
        self.count()
        self._apply()

    def _peer_reads(self) -> None:
        self.unread_since = None
        self.count()
        self._apply()

    @property
    def _is_paused(self) -> bool:
        return self._waiting or self._held > 0 or self.unread_since is not None

    def _apply(self) -> None:
        if self._transport.is_closing():
            return
        if self._is_paused:
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
        self._flow = flow
        self._half_frame = 0
        self._lags = False
        self._drop = drop
        self._closed = closed
        self._session: Session | None = None

    def connection_made(self, chan: Any) -> None:
        self._channel = chan
        self.pause_reading = chan.pause_reading
        self.resume_reading = chan.resume_reading
        self.close = chan.close
        refuse_environment(chan)
        deliver_at_once(chan)
        chan.set_write_buffer_limits(UNREAD_BYTES)

    def write(self, data: bytes) -> None:
        """Send bytes. Raises OSError if the channel is closing."""
        self._channel.write(data)
        if self._lags:
            self._flow.count()
        else:
            self._flow.written(len(data))

    @property
    def held_bytes(self) -> int:
        """What this channel makes the daemon hold."""
        lagging = self._channel.get_write_buffer_size() + WINDOW_BYTES if self._lags else 0
        return lagging + self._half_frame

    def abort(self) -> None:
        """End the connection: a channel alone closes only when its peer agrees."""
        self._drop("a session was dropped")

    def subsystem_requested(self, subsystem: str) -> bool:
        return subsystem == SUBSYSTEM

    def session_started(self) -> None:
        self._session = self._open_session(self)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        session = self._session
        if session is not None and datatype is None:
            session.received(data)
            if session.held_bytes != self._half_frame:
                self._half_frame = session.held_bytes
                self._flow.count()

    def eof_received(self) -> bool:
        """Stay open for answers: the peer will send no more requests."""
        return True

    def pause_writing(self) -> None:
        self._lags = True
        self._flow.count()
        if self._session is not None:
            self._session.pause_writing()

    def resume_writing(self) -> None:
        self._lags = False
        self._flow.count()
        if self._session is not None:
            self._session.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed(self)
        self._flow.count()
        if self._session is not None:
            self._session.lost()
