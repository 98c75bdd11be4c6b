"""An independent prober of the edges of a fleet: full handshakes with the files that a client has, never resumed or repeated."""

from __future__ import annotations

import hashlib
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

TIMEOUT_S = 15.0
_SSL_REQUEST = bytes.fromhex("0000000804d2162f")


@dataclass(frozen=True)
class Edge:
    """A client, with the directory that its files are in, and a server."""

    client: str
    files: Path
    server: str
    port: int
    host: str
    speaks: str

    def shake_hands(self) -> str:
        """One full handshake in which both sides are authenticated, and an answer; the SHA-256 of what the server showed."""
        files = self.files.resolve()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(files / "anchors.pem")
        context.load_cert_chain(files / "chain.pem", files / "key.pem")
        with socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT_S) as plain:
            if self.speaks == "postgresql":
                plain.sendall(_SSL_REQUEST)
                assert plain.recv(1) == b"S"
            with context.wrap_socket(plain, server_hostname=self.host) as secured:
                assert not secured.session_reused
                self._talk(secured)
                return hashlib.sha256(secured.getpeercert(True) or b"").hexdigest()

    def _talk(self, secured: ssl.SSLSocket) -> None:
        if self.speaks == "http":
            secured.sendall(f"GET / HTTP/1.1\r\nHost: {self.host}\r\nConnection: close\r\n\r\n".encode())
            answer = secured.recv(4_096)
            assert answer.split(b" ")[1] == b"200", answer
        elif self.speaks == "postgresql":
            body = b"\0\3\0\0user\0postgres\0database\0postgres\0\0"
            secured.sendall((len(body) + 4).to_bytes(4) + body)
            answer = secured.recv(4_096)
            assert answer[:1] == b"R", answer
        else:
            secured.sendall(b"?")
            assert secured.recv(2) == b"ok"


@dataclass
class Prober:
    """Makes handshakes on all edges in turns, `per_second` in all, until it is left. A context manager."""

    edges: Sequence[Edge]
    per_second: float = 40.0
    threads: int = 4
    handshakes: int = 0
    failed: list[str] = field(default_factory=list)
    shown: dict[str, Counter[str]] = field(default_factory=dict)
    """For each server how often it showed which certificate."""
    late_s: float = 0.0

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._next = 0
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Prober:
        self._began = time.monotonic()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(self.threads)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S * 2)

    def rounds(self) -> int:
        """How often every edge was probed."""
        return self.handshakes // len(self.edges)

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                number, self._next = self._next, self._next + 1
            due = self._began + number / self.per_second
            self._stop.wait(max(0.0, due - time.monotonic()))
            if not self._stop.is_set():
                self._probe(self.edges[number % len(self.edges)])

    def _probe(self, edge: Edge) -> None:
        began = time.monotonic()
        try:
            shown, fault = edge.shake_hands(), ""
        except (OSError, AssertionError, IndexError) as error:
            shown, fault = "", f"{edge.client} -> {edge.server}: {type(error).__name__}: {error}"
        with self._lock:
            self.handshakes += 1
            self.late_s = max(self.late_s, time.monotonic() - began)
            if fault:
                self.failed.append(fault)
            else:
                self.shown.setdefault(edge.server, Counter())[shown] += 1
