"""A TLS server of Python that demands client certificates, and loads its files anew on SIGHUP.

Usage: node_python_server.py PORT DIRECTORY
"""

from __future__ import annotations

import signal
import socket
import ssl
import sys
import threading
from contextlib import suppress
from pathlib import Path


def load(files: Path) -> ssl.SSLContext:
    """A context with all files of one version."""
    files = files.resolve()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(files / "anchors.pem"))
    context.load_verify_locations(files / "lists.pem")
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(files / "chain.pem", files / "key.pem")
    return context


def serve(connection: socket.socket, context: ssl.SSLContext) -> None:
    """Wait until the client says something or goes."""
    connection.settimeout(10)
    with suppress(OSError), context.wrap_socket(connection, server_side=True) as secured:
        secured.recv(1)
        secured.sendall(b"ok")


def main() -> None:
    """Serve until it is killed."""
    port, files = int(sys.argv[1]), Path(sys.argv[2])
    contexts = [load(files)]
    signal.signal(signal.SIGHUP, lambda *_: contexts.append(load(files)))
    with socket.create_server(("127.0.0.1", port), backlog=128) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection, contexts[-1]), daemon=True).start()


if __name__ == "__main__":
    main()
