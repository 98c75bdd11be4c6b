"""Encoders for the few DER structures (X.690) that are assembled here; the x509 library encodes their contents."""

from __future__ import annotations

import base64
import textwrap
from datetime import datetime

from cryptography.x509 import Extension, ExtensionType, ObjectIdentifier

BOOLEAN_TRUE = b"\x01\x01\xff"
SET = 0x31
CONTEXT_0 = 0xA0
CONTEXT_3 = 0xA3
_INTEGER, _BIT_STRING, _OCTET_STRING, _OID, _SEQUENCE = 0x02, 0x03, 0x04, 0x06, 0x30
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18


def tlv(tag: int, *contents: bytes) -> bytes:
    """Tag, length in its shortest form, and contents."""
    value = b"".join(contents)
    if len(value) < 0x80:
        return bytes([tag, len(value)]) + value
    length = len(value).to_bytes((len(value).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + value


def sequence(*members: bytes) -> bytes:
    """A SEQUENCE of encoded members."""
    return tlv(_SEQUENCE, *members)


def integer(value: int) -> bytes:
    """A non-negative INTEGER."""
    return tlv(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def bit_string(value: bytes) -> bytes:
    """A BIT STRING of whole bytes."""
    return tlv(_BIT_STRING, b"\0", value)


def object_identifier(oid: ObjectIdentifier) -> bytes:
    """An OBJECT IDENTIFIER."""
    first, second, *rest = (int(arc) for arc in oid.dotted_string.split("."))
    return tlv(_OID, *(_base_128(arc) for arc in (40 * first + second, *rest)))


def time(moment: datetime) -> bytes:
    """A Time, to the second: UTCTime up to 2049, GeneralizedTime from then on (RFC 5280, section 4.1.2.5)."""
    if moment.year < 2050:
        return tlv(_UTC_TIME, f"{moment:%y%m%d%H%M%SZ}".encode())
    return tlv(_GENERALIZED_TIME, f"{moment:%Y%m%d%H%M%SZ}".encode())


def extension(extension: Extension[ExtensionType]) -> bytes:
    """An Extension (RFC 5280, section 4.1); `critical` is left out when false, as DER requires of defaults."""
    value = tlv(_OCTET_STRING, extension.value.public_bytes())
    return sequence(object_identifier(extension.oid), BOOLEAN_TRUE if extension.critical else b"", value)


def pem(label: str, der: bytes) -> str:
    """A PEM document (RFC 7468)."""
    lines = textwrap.wrap(base64.b64encode(der).decode(), 64)
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


def _base_128(value: int) -> bytes:
    digits = [value & 0x7F]
    while value := value >> 7:
        digits.append(0x80 | (value & 0x7F))
    return bytes(reversed(digits))
