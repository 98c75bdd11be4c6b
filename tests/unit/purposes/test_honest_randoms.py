"""Honest handshakes under TLS 1.2 are signed: the rules against other formats hit random bytes hardly ever.

`HSMD_TEST_HONEST`: number of ServerKeyExchanges; `HSMD_TEST_HONEST_SEED` changes them.
"""

from __future__ import annotations

import hashlib
import os

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmd.errors import PurposeMismatch
from hsmd.purposes.other_formats import other_format
from hsmd.purposes.tls12_server import check_server_key_exchange

COUNT = int(os.environ.get("HSMD_TEST_HONEST", "100000"))
SEED = os.environ.get("HSMD_TEST_HONEST_SEED", "")
MOST_REFUSED = 2
"""Also of 10^7: about one in 2^25 is refused."""
NOW = (1_800_000_000).to_bytes(4)
"""The time with which some clients and servers begin their randoms (RFC 5246, section 7.4.1.2)."""
DOWNGRADE = b"DOWNGRD\1"
"""The end of the random of a server that also speaks TLS 1.3 (RFC 8446, section 4.1.3)."""


def honest(number: int, noise: bytes, points: list[bytes]) -> bytes:
    """One of the forms that OpenSSL, GnuTLS, NSS and Java send: with or without time and sentinel, X25519, X448 or P-256."""
    client = NOW + noise[4:32] if number & 1 else noise[:32]
    server = NOW + noise[36:64] if number & 2 else noise[32:64]
    if number & 4:
        server = server[:24] + DOWNGRADE
    point = (b"\3\0\x1d\x20" + noise[64:96], points[number % len(points)], b"\3\0\x1e\x38" + noise[64:120])[
        number % 3
    ]
    return client + server + point


def test_honest_handshakes_are_not_refused() -> None:
    points = [
        b"\3\0\x17\x41"
        + ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        for _ in range(50)
    ]
    refused = []
    for batch in range(0, COUNT, 10_000):
        stream = hashlib.shake_256(f"honest {SEED} {batch}".encode()).digest(120 * 10_000)
        for number in range(min(10_000, COUNT - batch)):
            data = honest(number, stream[120 * number : 120 * number + 120], points)
            try:
                check_server_key_exchange(data)
            except PurposeMismatch as mismatch:
                refused.append((mismatch.text, data.hex()))
    print(f"{COUNT} honest ServerKeyExchanges, {len(refused)} refused: {refused}")
    assert len(refused) <= MOST_REFUSED, refused


def test_the_rules_see_what_they_look_for() -> None:
    """The same bytes with marks of other formats: the count above could be none because nothing is looked at."""
    noise = hashlib.shake_256(b"marks").digest(120)
    for mark in (b"SSHSIG", b"DSSEv1 ", b"\x84\x6aSignature1"):
        assert other_format(mark + honest(0, noise, [b""])[len(mark) :])
