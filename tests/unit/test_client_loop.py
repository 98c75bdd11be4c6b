"""The loop of TLS clients of the test bed tells all that its users read."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from dataclasses import fields

from tests.support.hosts import client_loop
from tests.support.hosts.site import Clients


def test_what_failed_and_for_how_long_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        words = [
            sys.executable,
            client_loop.__file__,
            "127.0.0.1",
            str(server.getsockname()[1]),
            "www.example.org",
        ]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as loop:
            for _ in range(2):
                server.accept()[0].close()
            out, _ = loop.communicate(timeout=30)
    told = json.loads(out)
    assert set(told) == {each.name for each in fields(Clients)}
    assert told["certificates"] == {}
    assert sum(told["failures"].values()) == told["handshakes"] >= 1
    assert told["outage_s"] > 0
