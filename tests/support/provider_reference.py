"""Key reference files for the provider's tests, written by hand: independent of the code under test."""

from __future__ import annotations

import base64
import hashlib
import textwrap

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

LABEL = "HSMD KEY REFERENCE"
TITLE = "hsmd key reference v1"


def tlv(tag: int, content: bytes) -> bytes:
    """One DER element with its length in the shortest form."""
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + content


def subject_public_key_info(key: PublicKeyTypes) -> bytes:
    """The DER SubjectPublicKeyInfo of a public key."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def key_digest(key: PublicKeyTypes) -> bytes:
    """SHA-256 of a SubjectPublicKeyInfo, which identifies the key in the protocol."""
    return hashlib.sha256(subject_public_key_info(key)).digest()


def reference_der(info: bytes, name: str = "web-1", title: str = TITLE) -> bytes:
    """The content of a reference file."""
    digest = hashlib.sha256(info).digest()
    return tlv(0x30, tlv(0x0C, title.encode()) + tlv(0x0C, name.encode()) + tlv(0x04, digest) + info)


def pem(der: bytes, label: str = LABEL, width: int = 64, line_end: str = "\n") -> str:
    """A PEM block; `width` 0 puts all base64 on one line."""
    text = base64.b64encode(der).decode()
    lines = textwrap.wrap(text, width) if width else [text]
    return line_end.join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


def reference_pem(key: PublicKeyTypes, name: str = "web-1") -> str:
    """A complete reference file for a public key."""
    return pem(reference_der(subject_public_key_info(key), name))
