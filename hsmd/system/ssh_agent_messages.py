"""Messages between an SSH agent and its clients: their length, and the strings in them (draft-ietf-sshm-ssh-agent)."""

from __future__ import annotations

import socket
import struct
import time
from enum import IntEnum

MAX_MESSAGE_BYTES = 262_144


class Message(IntEnum):
    """The first byte of the messages that are used here."""

    FAILURE = 5
    LIST = 11
    LISTED = 12
    SIGN = 13
    SIGNED = 14


def receive(connection: socket.socket, ends: float | None = None) -> bytes:
    """The next message without its length. Raises EOFError at the end, and for one that is empty or too long.

    `ends`: when all of it has to be there, on the monotonic clock; TimeoutError is raised then. Without it the timeout of the
    socket is that of each part.
    """
    (length,) = struct.unpack(">I", _exactly(connection, 4, ends))
    if not 0 < length <= MAX_MESSAGE_BYTES:
        raise EOFError
    return _exactly(connection, length, ends)


def _exactly(connection: socket.socket, count: int, ends: float | None) -> bytes:
    received = bytearray()
    while len(received) < count:
        if ends is not None:
            if (left := ends - time.monotonic()) <= 0:
                raise TimeoutError
            connection.settimeout(left)
        part = connection.recv(count - len(received))
        if not part:
            raise EOFError
        received += part
    return bytes(received)


def string(content: bytes) -> bytes:
    """A string (RFC 4251, section 5): its length and its bytes. With a message as its content, what is sent."""
    return struct.pack(">I", len(content)) + content


def take(body: bytes) -> tuple[bytes, bytes]:
    """The string at the start, and what follows. Raises ValueError if it is cut off."""
    length = int.from_bytes(body[:4])
    if len(body) < 4 + length:
        raise ValueError
    return body[4 : 4 + length], body[4 + length :]
