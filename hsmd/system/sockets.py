"""What the kernel knows of a TCP connection."""

from __future__ import annotations

import asyncio
import socket

_CLOSE_WAIT = 8
"""State of TCP in which the peer has sent all that it will send (RFC 9293, section 3.3.2)."""


def peer_has_closed(transport: asyncio.Transport) -> bool:
    """Whether the peer has closed its end, also if what it sent before has not been read: a paused transport does not notice."""
    if transport.is_closing():  # uvloop raises ValueError for the socket of a transport that is closed
        return False
    try:
        connection = transport.get_extra_info("socket")
        return bool(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _CLOSE_WAIT)
    except (AttributeError, OSError):  # no TCP connection
        return False
