"""A program that does TLS handshakes between two ends in its process: it reads cases and prints outcomes, as JSON.

A case: certificate, key (files of the server), trust (file of the client), version ("1.2" or "1.3"), and optionally ciphers,
also (more pairs for the server), client_certificate and client_key. An outcome: version and cipher, or error and the end
that raised it; seconds.
"""

from __future__ import annotations

import json
import ssl
import sys
import time
from typing import Any

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
ROUNDS_MAX = 20


def context(case: dict[str, Any], role: int, prefix: str, trust: str | None) -> ssl.SSLContext:
    """One end's context; `prefix` selects its files in the case."""
    made = ssl.SSLContext(role)
    made.minimum_version = made.maximum_version = VERSIONS[case["version"]]
    if "ciphers" in case:
        made.set_ciphers(case["ciphers"])
    if f"{prefix}key" in case:
        made.load_cert_chain(case[f"{prefix}certificate"], case[f"{prefix}key"])
    for certificate, key in case.get(f"{prefix}also", ()):
        made.load_cert_chain(certificate, key)
    if trust is not None:
        made.verify_mode = ssl.CERT_REQUIRED
        made.load_verify_locations(trust)
    return made


def ends(case: dict[str, Any]) -> dict[str, tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]]:
    """Both ends, connected through memory."""
    client_context = context(case, ssl.PROTOCOL_TLS_CLIENT, "client_", case["trust"])
    server_context = context(case, ssl.PROTOCOL_TLS_SERVER, "", case.get("client_certificate"))
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    return {
        "client": (client_context.wrap_bio(back, there, server_hostname="localhost"), back, there),
        "server": (server_context.wrap_bio(there, back, server_side=True), there, back),
    }


def shake(case: dict[str, Any]) -> dict[str, Any]:
    """Run one case until both ends have finished or one fails."""
    name = "load"
    try:
        pair = ends(case)
        waiting = ["client", "server"]
        for _ in range(ROUNDS_MAX):
            for name in list(waiting):
                if step(pair[name][0]):
                    waiting.remove(name)
            if not waiting:
                break
        name = "server"
        pair["server"][0].write(b"done")
        name = "client"
        assert pair["client"][0].read(4) == b"done"
    except (ssl.SSLError, OSError) as error:
        return {"error": str(error), "end": name}
    chosen = pair["client"][0].cipher()
    assert chosen is not None
    return {"version": pair["client"][0].version(), "cipher": chosen[0]}


def step(end: ssl.SSLObject) -> bool:
    """Do one step of a handshake; return whether it is complete."""
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def timed(case: dict[str, Any]) -> dict[str, Any]:
    """The outcome with its duration."""
    began = time.monotonic()
    outcome = shake(case)
    return {**outcome, "seconds": time.monotonic() - began}


if __name__ == "__main__":
    json.dump([timed(case) for case in json.load(sys.stdin)], sys.stdout)
