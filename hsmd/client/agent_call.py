"""One request over a short connection to the agent's socket: connect, send, receive, close.

It keeps no state, so it is safe with threads and forks, and a restart of the agent does not matter.
"""

from __future__ import annotations

import socket
import time
from pathlib import Path

from hsmd.errors import DeadlineExceeded, ProtocolError, Unavailable
from hsmd.protocol.channel import ClientChannel
from hsmd.protocol.frames import Capability, Kind, decode_error, encode, encode_hello

_REQUEST_ID = 1
_READ_BYTES = 65_536
BACKLOG_RETRY_S = 0.001
"""A full backlog gives EAGAIN, and the socket cannot be polled then: sleep so long, and try again until the deadline."""


def ask(path: Path, kind: int, answer_kind: int, body: bytes, *, ends: float) -> bytes:
    """The body of the answer to a frame of `kind`. `ends` is a time.monotonic() value.

    Raises Unavailable, DeadlineExceeded, ProtocolError, or the error that the agent returned.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            _connect(sock, path, ends)
            sock.settimeout(_left(ends))
            sock.sendall(encode_hello(Capability.CONTROL) + encode(kind, _REQUEST_ID, body))
            return _answer(sock, answer_kind, ends)
    except TimeoutError:
        raise DeadlineExceeded("the agent did not answer in time") from None
    except OSError as error:
        raise Unavailable(f"agent at {path}: {error.strerror or error}; is the agent running?") from None


def _connect(sock: socket.socket, path: Path, ends: float) -> None:
    while True:
        sock.settimeout(_left(ends))
        try:
            sock.connect(str(path))
        except BlockingIOError:
            time.sleep(min(BACKLOG_RETRY_S, _left(ends)))
        else:
            return


def _answer(sock: socket.socket, answer_kind: int, ends: float) -> bytes:
    channel = ClientChannel()
    while True:
        sock.settimeout(_left(ends))
        data = sock.recv(_READ_BYTES)
        if not data:
            raise Unavailable("the agent closed the connection")
        for kind, request_id, body in channel.receive(data):
            if kind == Kind.ERROR and request_id in (0, _REQUEST_ID):
                raise decode_error(body)
            if request_id == _REQUEST_ID:
                if kind != answer_kind:
                    raise ProtocolError("the agent's answer is of another kind than the request")
                return body


def _left(ends: float) -> float:
    left_s = ends - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
