"""Bytes that TLS servers and clients sign, and the scheme that most tests use."""

from __future__ import annotations

CERTIFICATE_VERIFY = b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + bytes(range(32))
SERVER_KEY_EXCHANGE = bytes(range(64)) + b"\x03\x00\x1d\x20" + bytes(range(32))
"""Client random, server random, named curve x25519 with its point (RFC 8422, section 5.4)."""
P256 = 0x0403
TLS13 = b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + b"\x11" * 32


def tls13(number: int) -> bytes:
    """Bytes that a TLS 1.3 server signs, different for each number."""
    return TLS13[:-32] + number.to_bytes(32, "big")
