"""Writes hostile.json: payloads that a key with TLS purposes must never sign, from valid.json, disguised.json and by hand.

Run by hand after make_valid.py, make_disguised.py or a change here; the same input gives the same output.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from hostile_formats import Payload, other_formats  # noqa: E402
from hostile_tls import (  # noqa: E402
    cross_dressed,
    foreign_certificate,
    messages,
    tls12_client,
    tls12_server,
    tls13,
)

POINT_LENGTHS = {"x25519": 100, "x448": 124, "p-256": 133, "p-384": 165, "p-521": 201}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=HERE / "hostile.json")
    output = parser.parse_args().output
    valid = json.loads((HERE / "valid.json").read_text())
    others = json.loads((HERE / "disguised.json").read_text())
    payloads = [
        {"name": name, "keys": keys, "data": base64.b64encode(data).decode()}
        for name, keys, data in hostile(valid, others)
    ]
    assert len({payload["name"] for payload in payloads}) == len(payloads)
    output.write_text(json.dumps(payloads, indent=0) + "\n")
    print(f"{len(payloads)} hostile payloads")


def hostile(valid: dict, others: dict) -> Iterator[tuple[str, list[str], bytes]]:
    """(name, keys for which it is hostile, bytes)."""
    everyone = list(valid["keys"])
    for name, data in [*other_formats(), *accepted(others), *x509(valid), *near_misses(valid)]:
        yield name, everyone, data
    own = transcript(valid, "p-256")
    for other in everyone:
        if other != "p-256":
            crossed = foreign_certificate(own, transcript(valid, other))
            yield (
                f"transcript with the certificate of {other}",
                [key for key in everyone if key != other],
                crossed,
            )
            yield (
                f"transcript of {other}",
                [key for key in everyone if key != other],
                transcript(valid, other),
            )


def accepted(others: dict) -> Iterator[Payload]:
    """What independent readers accepted (make_disguised.py), whatever key signs it."""
    for record in others["records"]:
        if record["purpose"] == "tls12-server":
            yield f"accepted: {record['name']}", base64.b64decode(record["data"])


def x509(valid: dict) -> Iterator[Payload]:
    for number, record in enumerate(valid["records"]):
        if record["purpose"].startswith("x509-"):
            yield f"{record['purpose']} {record['key']} {number}", base64.b64decode(record["data"])


def near_misses(valid: dict) -> Iterator[Payload]:
    server = pick(valid, "tls13-server", "p-256", 130)
    forms = {group: pick(valid, "tls12-server", "p-256", size) for group, size in POINT_LENGTHS.items()}
    yield from tls13(server, pick(valid, "tls13-client", "p-256", 130))
    yield from tls12_server(forms)
    yield from tls12_client(transcript(valid, "p-256"))
    yield from cross_dressed(forms["x25519"], server, transcript(valid, "p-256"))


def transcript(valid: dict, key: str) -> bytes:
    """A transcript of eight messages, the ServerKeyExchange among them."""
    found = candidates(valid, "tls12-client", key)
    return next(data for data in found if len(messages(data)) == 8)


def pick(valid: dict, purpose: str, key: str, size: int) -> bytes:
    return next(data for data in candidates(valid, purpose, key) if len(data) == size)


def candidates(valid: dict, purpose: str, key: str) -> Iterator[bytes]:
    for record in valid["records"]:
        if record["purpose"] == purpose and record["key"] == key:
            yield base64.b64decode(record["data"])


if __name__ == "__main__":
    main()
