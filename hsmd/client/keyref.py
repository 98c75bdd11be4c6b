"""Key reference files: what a TLS server loads instead of a private key (docs/protocol.md, section 7).

Pure. The DER is strict: one encoding for each reference, no trailing bytes, at most 8 KiB.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from hsmd.algorithms import key_type_of
from hsmd.errors import BadRequest

LABEL = "HSMD KEY REFERENCE"
MAX_DER_BYTES = 8 * 1024
_VERSION = b"hsmd key reference v1"
_MAX_NAME_BYTES = 64
_SEQUENCE, _UTF8_STRING, _OCTET_STRING = 0x30, 0x0C, 0x04
_LINE = 64
_PEM = re.compile(rf"-----BEGIN {LABEL}-----\s*([A-Za-z0-9+/=\s]+?)\s*-----END {LABEL}-----\s*\Z")


@dataclass(frozen=True, slots=True)
class KeyReference:
    """A key's name (for display) and public half; `public_key` is its DER SubjectPublicKeyInfo."""

    name: str
    public_key: bytes

    @property
    def digest(self) -> bytes:
        """SHA-256 of the SubjectPublicKeyInfo: the key's name in the protocol."""
        return hashlib.sha256(self.public_key).digest()

    def load(self) -> PublicKeyTypes:
        """The public key. Raises BadRequest if it is not one."""
        try:
            return load_der_public_key(self.public_key)
        except (ValueError, UnsupportedAlgorithm):
            raise BadRequest("key reference: the public key cannot be read") from None


def encode(reference: KeyReference) -> str:
    """The PEM file (RFC 7468). Raises BadRequest unless the name has 1 to 64 bytes and the DER fits."""
    name = reference.name.encode()
    if not 1 <= len(name) <= _MAX_NAME_BYTES:
        raise BadRequest(f"name: {len(name)} bytes are not between 1 and {_MAX_NAME_BYTES}")
    parts = [(_UTF8_STRING, _VERSION), (_UTF8_STRING, name), (_OCTET_STRING, reference.digest)]
    der = _tlv(_SEQUENCE, b"".join(_tlv(tag, value) for tag, value in parts) + reference.public_key)
    if len(der) > MAX_DER_BYTES:
        raise BadRequest(f"key reference: {len(der)} bytes are more than {MAX_DER_BYTES}")
    text = base64.b64encode(der).decode()
    lines = [text[at : at + _LINE] for at in range(0, len(text), _LINE)]
    return "\n".join([f"-----BEGIN {LABEL}-----", *lines, f"-----END {LABEL}-----", ""])


def decode(pem: str) -> KeyReference:
    """The reference in a PEM file. Raises BadRequest that names the fault."""
    start = pem.find(f"-----BEGIN {LABEL}-----")
    found = _PEM.match(pem, start) if start >= 0 else None
    if found is None:
        raise BadRequest(f"key reference: no PEM block with the label {LABEL}")
    text = "".join(found[1].split())
    try:
        der = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest("key reference: not valid base64") from None
    if base64.b64encode(der).decode() != text:  # unused bits of the last character: RFC 4648, section 3.5
        raise BadRequest("key reference: base64 that is not canonical")
    if len(der) > MAX_DER_BYTES:
        raise BadRequest(f"key reference: {len(der)} bytes are more than {MAX_DER_BYTES}")
    return _decode_der(der)


def _decode_der(der: bytes) -> KeyReference:
    content, rest = _read(der, _SEQUENCE)
    if rest:
        raise BadRequest("key reference: trailing bytes")
    version, content = _read(content, _UTF8_STRING)
    if version != _VERSION:
        raise BadRequest("key reference: its version is not supported by this release")
    name, content = _read(content, _UTF8_STRING)
    digest, public_key = _read(content, _OCTET_STRING)
    if not 1 <= len(name) <= _MAX_NAME_BYTES:
        raise BadRequest("key reference: the name must have 1 to 64 bytes")
    if hashlib.sha256(public_key).digest() != digest:
        raise BadRequest("key reference: the digest is not that of the public key")
    try:
        reference = KeyReference(name.decode(), public_key)
    except UnicodeDecodeError:
        raise BadRequest("key reference: the name is not UTF-8") from None
    loaded = reference.load()
    if key_type_of(loaded) is None:
        raise BadRequest("key reference: hsmd does not support keys of this type")
    if loaded.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != public_key:
        raise BadRequest("key reference: the public key is not in DER")
    return reference


def _tlv(tag: int, value: bytes) -> bytes:
    if len(value) < 0x80:
        return bytes([tag, len(value)]) + value
    length = len(value).to_bytes((len(value).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + value


def _read(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """(value, rest) of the element at the start of `data`, which must have `tag` and the shortest length (X.690, 10.1)."""
    if len(data) < 2 or data[0] != tag:
        raise BadRequest(f"key reference: an element with tag 0x{tag:02x} was expected")
    size, at = data[1], 2
    if size >= 0x80:
        count = size & 0x7F
        size, at = int.from_bytes(data[2 : 2 + count], "big"), 2 + count
        if not 1 <= count <= 2 or size < 0x80 or size >> (8 * (count - 1)) == 0:
            raise BadRequest("key reference: a length is not in DER")
    if len(data) < at + size:
        raise BadRequest("key reference: it is cut off")
    return data[at : at + size], data[at + size :]
