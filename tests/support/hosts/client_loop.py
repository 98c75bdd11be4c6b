"""Makes TLS handshakes with a server, one after the other, until its standard input ends; then prints what came.

    python client_loop.py ADDRESS PORT NAME [VERSION]      VERSION: TLSv1_2 or TLSv1_3, by default any

A handshake counts as failed if it, or the answer to a request, does not come within 10 s. The program is run in the network
of the clients, and needs nothing but Python.
"""

from __future__ import annotations

import hashlib
import json
import socket
import ssl
import sys
import threading
import time
from collections import Counter

PATIENCE_S = 10.0


def main() -> None:
    """Print one JSON object: handshakes, failures by text, certificates by digest with the seconds of their first and last use,
    and the longest time without a good handshake while others failed.
    """
    address, port, name, *version = sys.argv[1:]
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if version:
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version[0]]
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()

    began = time.monotonic()
    failures: Counter[str] = Counter()
    seen: dict[str, list[float]] = {}
    done, longest, outage, served = 0, 0.0, 0.0, 0.0
    while not ended.is_set():
        started = time.monotonic()
        try:
            certificate = handshake(context, address, int(port), name)
        except OSError as error:
            failures[f"{type(error).__name__}: {error}"] += 1
            outage = max(outage, time.monotonic() - began - served)
            ended.wait(0.02)
        else:
            served = now = time.monotonic() - began
            seen.setdefault(certificate, [now, now])[1] = now
        longest = max(longest, time.monotonic() - started)
        done += 1
    found = {
        "handshakes": done,
        "failures": failures,
        "certificates": seen,
        "longest_s": longest,
        "outage_s": outage,
    }
    json.dump(found, sys.stdout)


def handshake(context: ssl.SSLContext, address: str, port: int, name: str) -> str:
    """Make a handshake and a request; return the digest of the certificate. OSError if it fails."""
    with (
        socket.create_connection((address, port), PATIENCE_S) as plain,
        context.wrap_socket(plain, server_hostname=name) as tls,
    ):
        tls.sendall(f"GET / HTTP/1.0\r\nHost: {name}\r\n\r\n".encode())
        if not tls.recv(1):
            raise OSError("no answer")
        leaf = tls.getpeercert(binary_form=True)
        assert leaf is not None
        return hashlib.sha256(leaf).hexdigest()


if __name__ == "__main__":
    main()
