"""Floods of an agent's socket by one local user, each a separate process.

    python agent_floods.py KIND SOCKET UID CONNECTIONS KEY_HEX KEY_NAME

It prints "ready" once all connections are open, and goes on until it is killed. Kinds are listed in `BLOCKS` and `OTHERS`.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import sys
from collections.abc import Callable

from hsmd.protocol.frames import (
    Capability,
    Kind,
    encode,
    encode_control_request,
    encode_hello,
    encode_key_operation,
)

P256, TLS13_SERVER, TLS12_CLIENT = 0x0403, 1, 4
DATA = b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + bytes(32)
COUNT = 1_000
"""Frames of one block."""
HELLO = encode_hello(Capability.CONTROL)


def _numbered(frame: Callable[[int], bytes], count: int = COUNT) -> bytes:
    return b"".join(frame(number) for number in range(1, count + 1))


def _control(document: str) -> bytes:
    return _numbered(lambda number: encode_control_request(number, 5_000, document.encode()), 8)


BLOCKS: dict[str, Callable[[bytes, str], bytes]] = {
    "pings": lambda key, name: _numbered(lambda number: encode(Kind.PING, number)),
    "cancels": lambda key, name: _numbered(lambda number: encode(Kind.CANCEL, number)),
    "skipped": lambda key, name: _numbered(lambda number: encode(0xEE, number)),
    "large": lambda key, name: _numbered(lambda number: encode(0xEE, number, bytes(65_000)), 8),
    "refused": lambda key, name: _numbered(
        lambda number: encode_key_operation(number, 500, TLS13_SERVER, P256, b"\7" * 32, DATA)
    ),
    "operations": lambda key, name: _numbered(
        lambda number: encode_key_operation(number, 500, TLS13_SERVER, P256, key, DATA), 32
    ),
    "refused-by-daemon": lambda key, name: _numbered(
        lambda number: encode_key_operation(number, 500, TLS12_CLIENT, P256, key, DATA), 64
    ),
    "given-up": lambda key, name: _numbered(
        lambda number: (
            encode_key_operation(number, 500, TLS13_SERVER, P256, key, DATA) + encode(Kind.CANCEL, number)
        ),
        256,
    ),
    "whoami": lambda key, name: _control('{"op":"whoami"}'),
    "invalid": lambda key, name: _control("[" * 50),
    "lists": lambda key, name: _control('{"op":"key.list","limit":500}'),
    "shows": lambda key, name: _control(f'{{"op":"key.show","name":"{name}"}}'),
}
OTHERS = ("connects", "greetings", "dribbles")
KINDS = (*BLOCKS, *OTHERS)


class Flooder:
    """One connection that sends the block again and again, and reads what comes."""

    def __init__(self, path: str, block: bytes, piece: int) -> None:
        self._path, self._block, self._piece = path, block, piece
        self._at = 0
        self.open()

    def open(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(self._path)
        self.socket.sendall(HELLO)
        self.socket.setblocking(False)
        self._at = 0

    def go_on(self, events: int) -> bool:
        """Return whether the connection is still open."""
        try:
            if events & selectors.EVENT_READ and not self.socket.recv(1 << 20):
                return False
            if events & selectors.EVENT_WRITE:
                self._at += self.socket.send(self._block[self._at : self._at + self._piece])
                self._at %= len(self._block)
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True


def flood(path: str, connections: int, block: bytes, piece: int = 1 << 20) -> None:
    """Send on all connections as fast as they take it; open those again that the agent closes."""
    selector = selectors.DefaultSelector()
    both = selectors.EVENT_READ | selectors.EVENT_WRITE
    for _ in range(connections):
        one = Flooder(path, block, piece)
        selector.register(one.socket, both, one)
    print("ready", flush=True)
    while True:
        for key, events in selector.select():
            one = key.data
            if not one.go_on(events):
                selector.unregister(one.socket)
                one.socket.close()
                with contextlib.suppress(OSError):
                    one.open()
                    selector.register(one.socket, both, one)


def connect(path: str, held: int, hello: bytes) -> None:
    """Open connections without end; keep `held` of them."""
    print("ready", flush=True)
    kept: list[socket.socket] = []
    while True:
        one = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError):
            one.connect(path)
            one.sendall(hello)
        kept.append(one)
        if len(kept) > held:
            kept.pop(0).close()


def main(kind: str, path: str, uid: str, connections: str, key: str, name: str) -> None:
    if int(uid) != os.geteuid():
        os.setgroups([])
        os.setgid(int(uid))
        os.setuid(int(uid))
    if kind == "connects":
        connect(path, int(connections), b"")
    elif kind == "greetings":
        connect(path, int(connections), HELLO)
    elif kind == "dribbles":
        flood(path, int(connections), (65_536).to_bytes(4, "big") + b"\xee" + bytes(65_535), 1)
    else:
        flood(path, int(connections), BLOCKS[kind](bytes.fromhex(key), name))


if __name__ == "__main__":
    main(*sys.argv[1:])
