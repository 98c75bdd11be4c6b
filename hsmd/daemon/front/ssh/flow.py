"""Flow: how much of one SSH connection the daemon takes in at a time.

asyncssh ignores a transport that is full, so a peer that never reads would have it buffer answers without bound; and it handles
all packets of a read before it lets go, so a peer that sends many tiny ones would keep everybody else waiting. Both are
answered by not reading from the socket for a while. A peer that keeps exchanging keys is dropped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from hsmd.system.ssh_profile import packet_handling, replace_packet_handling

PACKETS_A_TURN = 32
"""Packets of one connection that are handled before others are heard. Usually one brings everything a peer has to ask."""
KEY_EXCHANGES = 10
KEY_EXCHANGES_S = 60.0
"""So many key exchanges a peer may have in so many seconds: each costs a signature and two agreements. Peers that follow their
own limits need one every few minutes."""


class Flow:
    """Hooked into one connection of asyncssh. `unread_since` (monotonic) is when the peer stopped reading, None if it reads."""

    def __init__(self, conn: Any, drop: Callable[[str], None]) -> None:
        self.unread_since: float | None = None
        asyncssh = packet_handling(conn)
        self._transport = asyncssh.transport
        self._handle_packets = asyncssh.handle_received
        self._handle_packet = asyncssh.handle_packet
        self._loop = asyncio.get_running_loop()
        self._left = PACKETS_A_TURN
        self._waiting = False
        self._answer_kexinit = asyncssh.exchange_keys
        self._drop = drop
        self._exchanges, self._exchanges_since = 0, time.monotonic()
        replace_packet_handling(
            conn,
            handle_packet=self._packet,
            exchange_keys=self._kexinit,
            pause_writing=self._peer_lags,
            resume_writing=self._peer_reads,
        )

    def _packet(self) -> bool:
        """In place of asyncssh's: one packet, or False for "not now"."""
        if self._left > 0:
            self._left -= 1
            return bool(self._handle_packet())
        if not self._waiting:
            self._waiting = True
            self._apply()
            self._loop.call_soon(self._next_turn)
        return False

    def _kexinit(self) -> None:
        """In place of asyncssh's: begin a key exchange, or take part in one that the peer begins (RFC 4253, section 9)."""
        now = time.monotonic()
        if now - self._exchanges_since > KEY_EXCHANGES_S:
            self._exchanges, self._exchanges_since = 0, now
        self._exchanges += 1
        if self._exchanges > KEY_EXCHANGES:
            self._drop("too many key exchanges")
            return
        self._answer_kexinit()

    def _next_turn(self) -> None:
        self._left, self._waiting = PACKETS_A_TURN, False
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
        if self._waiting or self.unread_since is not None:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()
