"""What the kernel knows of a TCP connection."""

from __future__ import annotations

import asyncio
import socket

_CLOSED, _CLOSE_WAIT = 7, 8
"""States of TCP in which the peer has reset the connection, or has sent all that it will send (RFC 9293, section 3.3.2)."""


def peer_has_closed(transport: asyncio.Transport) -> bool:
    """Whether the peer has closed its end, also if what it sent before has not been read: a paused transport does not notice.

    The end of a peer that had more to send than fits into the receive buffer does not arrive. Something that is sent to it does
    make its kernel reset the connection.
    """
    if transport.is_closing():  # uvloop raises ValueError for the socket of a transport that is closed
        return False
    try:
        connection = transport.get_extra_info("socket")
        return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in (_CLOSED, _CLOSE_WAIT)
    except (AttributeError, OSError):  # no TCP connection
        return False
