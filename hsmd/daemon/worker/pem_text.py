"""Finding the one private key in a file: the PEM block with it, or what the file holds instead and the next step.

Used only by the one-shot import worker. No error contains a part of the file's content.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

from hsmd.errors import BadRequest

MAX_PEM_BYTES = 65_536
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,64})-----\n(.*?)-----END \1-----", re.DOTALL)
_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,64})-----")
_ENCAPSULATED_HEADERS = re.compile(rb"\A(?:[A-Za-z0-9-]+:[^\n]*\n)+\n?")
"""Headers of RFC 1421, which traditional encrypted keys have."""
PKCS8, ENCRYPTED_PKCS8 = b"PRIVATE KEY", b"ENCRYPTED PRIVATE KEY"
RSA, EC = b"RSA PRIVATE KEY", b"EC PRIVATE KEY"
_READABLE = (PKCS8, ENCRYPTED_PKCS8, RSA, EC)
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")

_OTHER_BLOCKS = {
    b"OPENSSH PRIVATE KEY": "this is an OpenSSH private key; convert a copy of an RSA or ECDSA key with "
    "`ssh-keygen -p -m PKCS8 -f COPY`, and make a new key in place of an Ed25519 key, which ssh-keygen does not convert",
    b"HSMD KEY REFERENCE": "this is a reference to a key in a token, not a private key; there is nothing to import",
    b"DSA PRIVATE KEY": "this is a DSA private key, which TLS no longer uses; make a new key",
    b"PGP PRIVATE KEY BLOCK": "this is an OpenPGP private key; give a key made for TLS",
    b"TSS2 PRIVATE KEY": "this is a key that only its TPM can use; it cannot be imported",
    b"DH PARAMETERS": "the file holds Diffie-Hellman parameters and no private key; give the file with the private key",
}
_CERTIFICATION_REQUEST = (
    "the file holds a certificate request and no private key; give the file with the private key"
)
_OTHER_BLOCKS |= {
    b"CERTIFICATE REQUEST": _CERTIFICATION_REQUEST,
    b"NEW CERTIFICATE REQUEST": _CERTIFICATION_REQUEST,
}
_OTHER_FILES = (
    (b"\xfe\xed\xfe\xed", "this is a Java key store; convert it with `keytool -importkeystore`, then `openssl pkcs12`"),
    (b"PuTTY-User-Key-File", "this is a PuTTY key; export it with `puttygen FILE -O private-openssh-new`"),
    (b"SSH PRIVATE KEY FILE FORMAT", "this is an SSH1 key; give a key made for TLS"),
    (b"ssh-", "this is an OpenSSH public key; give the file with the private key, in PEM"),
    (b"ecdsa-sha2-", "this is an OpenSSH public key; give the file with the private key, in PEM"),
    (b"{", "this is JSON, perhaps a JSON Web Key; give the private key in PEM"),
)  # fmt: skip
_PKCS12 = re.compile(rb"\A\x30(?:[\x00-\x80]|\x81.|\x82..|\x83...|\x84....)\x02\x01\x03\x30", re.DOTALL)
"""The begin of a PFX: SEQUENCE, version 3, SEQUENCE (RFC 7292, section 4)."""


@dataclass(frozen=True, slots=True)
class KeyBlock:
    """The PEM block with the private key: its label, all of it, and the DER in it unless the traditional way encrypts it."""

    label: bytes
    pem: bytes
    der: bytes | None


def the_private_key(content: bytes) -> KeyBlock:
    """The one private key in a PEM file; text around it and other blocks are ignored.

    White space at the ends of lines, a byte order mark, and line ends of other systems do not matter. Raises BadRequest, which
    says what the file is and what to do.
    """
    if len(content) > MAX_PEM_BYTES:
        raise _refused(f"the file is larger than {MAX_PEM_BYTES} bytes; give one with the private key alone")
    text = _plain(content)
    blocks = [match for match in _BLOCK.finditer(text) if match[1] in _READABLE]
    if len(blocks) > 1:
        raise _refused(f"the file holds {len(blocks)} private keys; give a file with one")
    if not blocks:
        raise _refused(_why_none(content, text))
    [block] = blocks
    return KeyBlock(block[1], block[0] + b"\n", _der(block[2]))


def _plain(content: bytes) -> bytes:
    if content.startswith(_UTF16_MARKS):
        raise _refused("the file is UTF-16 text; save it as ASCII or UTF-8")
    lines = re.split(rb"\r\n|\r|\n", content.removeprefix(_UTF8_MARK))
    return b"\n".join(line.strip() for line in lines)


def _der(body: bytes) -> bytes | None:
    headers = _ENCAPSULATED_HEADERS.match(body)
    if headers is not None and b"ENCRYPTED" in headers[0]:
        return None
    if headers is not None:
        body = body[headers.end() :]
    try:
        return base64.b64decode(body.translate(None, b" \t\n"), validate=True)
    except binascii.Error:
        raise _refused("the private key is damaged: it is not valid base64; copy the file again") from None


def _why_none(content: bytes, text: bytes) -> str:
    labels = {match[1] for match in _BLOCK.finditer(text)}
    for label, advice in _OTHER_BLOCKS.items():
        if label in labels:
            return advice
    if labels:
        held = ", ".join(sorted(label.decode() for label in labels))
        return f"the file holds {held} and no private key; give the file with the private key"
    if begun := _BEGIN.search(text):
        return f"BEGIN {begun[1].decode()} has no matching END line; the file is cut off: copy it again"
    if not content.strip():
        return "the file is empty, so it is not PEM; give the file with the private key"
    if _PKCS12.match(content):
        return "this is PKCS#12; extract the key with `openssl pkcs12 -in FILE -nocerts -out FILE.pem`"
    if content[:1] == b"\x30":
        return "this is DER; convert it with `openssl pkey -inform DER -in FILE -out FILE.pem`"
    for begin, advice in _OTHER_FILES:
        if text.startswith(begin):
            return advice
    return "the file is not PEM; it must hold a block that begins with -----BEGIN PRIVATE KEY-----"


def _refused(text: str) -> BadRequest:
    return BadRequest(f"pem: {text}")
