"""A Python program as a TLS server, which keeps sessions as long as its context."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

from tests.support.resumption import HOST, Files


class Python:
    """A Python program. `setup`: `default`, `no-tickets` (of TLS 1.3), or `no-clients`: it asks for no certificates.

    `seen` has for each handshake whether it was resumed; `on_request` is called once, before the next answer.
    """

    def __init__(self, files: Files, setup: str = "default") -> None:
        self.files, self.setup = files, setup
        self.seen: list[bool] = []
        self.on_request: Callable[[], None] | None = None
        self._context = self._made()
        self._socket = socket.create_server((HOST, 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def steps(self) -> Mapping[str, Callable[[], None]]:
        return {"reload": self.load_again, "new-context": self.make_anew}

    def load_again(self) -> None:
        """Load the files into the context that is in use."""
        self._load(self._context)

    def make_anew(self) -> None:
        """Use another context for the connections to come."""
        self._context = self._made()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._socket.close()

    def _made(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._load(context)
        if self.setup != "no-clients":
            context.verify_mode = ssl.CERT_REQUIRED
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        if self.setup == "no-tickets":
            context.num_tickets = 0
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        path = self.files.path
        context.load_cert_chain(path("chain.pem"), path("key.pem"))
        context.load_verify_locations(path("anchors.pem"))
        context.load_verify_locations(path("lists.pem"))

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                raw, _ = self._socket.accept()
                with raw, suppress(OSError), self._context.wrap_socket(raw, server_side=True) as tls:
                    self._answer(tls)

    def _answer(self, tls: ssl.SSLSocket) -> None:
        tls.settimeout(10)
        tls.recv(4096)
        self.seen.append(bool(tls.session_reused))
        call, self.on_request = self.on_request, None
        if call:
            call()
        tls.sendall(b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\n")
        tls.unwrap()
