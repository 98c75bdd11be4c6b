"""Bytes that TLS servers and clients sign, and the scheme that most tests use."""

from __future__ import annotations

CERTIFICATE_VERIFY = b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + bytes(range(32))
SERVER_KEY_EXCHANGE = bytes(range(160, 224)) + b"\x03\x00\x1d\x20" + bytes(range(32))
"""Client random, server random, named curve x25519 with its point (RFC 8422, section 5.4)."""
P256 = 0x0403
TLS13 = b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + b"\x11" * 32


def tls13(number: int) -> bytes:
    """Bytes that a TLS 1.3 server signs, different for each number."""
    return TLS13[:-32] + number.to_bytes(32, "big")


def client_transcript(spki: bytes, *, authorities: int = 0, junk: bytes = b"") -> bytes:
    """The least TLS 1.2 client transcript that a P-256 key of this SubjectPublicKeyInfo signs with ECDSA and SHA-256.

    The server names `authorities` certification authorities of one byte each; `junk` is in its certificate.
    """
    hello = b"\3\3" + b"r" * 32 + b"\0"
    point = b"\x41\4" + bytes(64)
    named = b"\0\1n" * authorities
    return b"".join(
        [
            _message(1, hello + b"\0\2\xc0\x2b\1\0"),
            _message(2, hello + b"\xc0\x2b\0"),
            _message(11, _prefixed(3, _prefixed(3, b"x" + junk))),
            _message(12, b"\3\0\x17" + point + b"\4\3" + _prefixed(2, b"s" * 70)),
            _message(13, b"\1\x40\0\2\4\3" + _prefixed(2, named)),
            _message(14, b""),
            _message(11, _prefixed(3, _prefixed(3, _certificate(spki)))),
            _message(16, point),
        ]
    )


def _certificate(spki: bytes) -> bytes:
    """What is looked at in a DER Certificate: its members, and the key of its TBSCertificate (RFC 5280, section 4.1)."""
    tbs = b"\2\1\1" + b"\x30\0" * 4 + spki
    return _sequence(_sequence(tbs) + b"\x30\0" + b"\3\1\0")


def _sequence(content: bytes) -> bytes:
    if len(content) < 128:
        return b"\x30" + _prefixed(1, content)
    return b"\x30\x82" + _prefixed(2, content) if len(content) > 255 else b"\x30\x81" + _prefixed(1, content)


def _message(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + _prefixed(3, body)


def _prefixed(size: int, content: bytes) -> bytes:
    return len(content).to_bytes(size) + content
