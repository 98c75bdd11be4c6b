"""What to search for, to find a key of the vault: private numbers and secret bytes in every layout that software here has for them."""

from __future__ import annotations

import base64
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from hsmd.envelopes.recipients import HybridPrivateKey, SymmetricKey
from tests.support.memory import WINDOW, Needles, ec_needles, integer_layouts, rsa_needles

_TEXT_PART = 20
"""Bytes in a searched piece of base64: 27 characters, of which a line of a PEM file, which has 64, interrupts one in three."""


def needles_of(name: str, key: Any) -> Needles:
    """The layouts of a private key (of `cryptography` or of envelopes) or of the bytes of a symmetric one, as parts of `name`."""
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.private_numbers()
        size = key.key_size // 16
        found = dict(rsa_needles(key))
        texts = {"p": numbers.p.to_bytes(size, "big"), "q": numbers.q.to_bytes(size, "big")}
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        found = dict(ec_needles(key))
        size = (key.key_size + 7) // 8
        texts = {"scalar": key.private_numbers().private_value.to_bytes(size, "big")}
    else:
        texts = _raw_parts(key)
        found = {part: _bytes_layouts(raw) for part, raw in texts.items()}
    for part, raw in texts.items():
        found[part] = [*found[part], *_texts(raw)]
    return {f"{name} {part}": layouts for part, layouts in found.items()}


def _raw_parts(key: Any) -> dict[str, bytes]:
    if isinstance(key, bytes):
        return {"secret": key}
    if isinstance(key, SymmetricKey):
        return {"secret": key.key}
    if isinstance(key, HybridPrivateKey):
        return {"seed": key.mlkem768.private_bytes_raw(), "x25519": key.x25519.private_bytes_raw()}
    return {"raw": key.private_bytes_raw()}


def _bytes_layouts(raw: bytes) -> list[bytes]:
    """As an integer of these bytes, which covers them in both orders; and their beginning, which stays in a copy that is in use."""
    return [*integer_layouts(int.from_bytes(raw, "big"), len(raw)), raw[:WINDOW], raw[::-1][:WINDOW]]


def _texts(raw: bytes) -> list[bytes]:
    """Pieces from the beginning to the end of some bytes, in base64 at each alignment, and in hexadecimal in both orders."""
    starts = range(0, max(1, len(raw) - _TEXT_PART + 1), 6)
    found = [
        base64.b64encode(b"\0" * shift + raw[at : at + _TEXT_PART])[4 if shift else 0 :][:24]
        for at in starts
        for shift in range(3)
    ]
    for each in (raw, raw[::-1]):
        found += [each[-WINDOW:].hex().encode(), each[:WINDOW].hex().encode()]
        found += [each[-WINDOW:].hex().upper().encode(), each[:WINDOW].hex().upper().encode()]
    return found
