"""PEM files of trust anchors and of chains (RFC 7468): CERTIFICATE blocks and nothing else.

Comments and other blocks are refused, because readers of such files differ in what they make of them: some skip what they do not
know, and a file that one program verifies with is then another one than was checked here.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hsmd.anchors.certificates import MAX_CERTIFICATES, check_list, check_size, read_all, too_many
from hsmd.anchors.problems import CertificatesInvalid

LABEL = b"CERTIFICATE"
_SPACE = re.compile(rb"[ \t\r\n]*")
_BLOCK = re.compile(
    rb"-----BEGIN (?P<label>[A-Z0-9 ]{1,60})-----\r?\n"
    rb"(?P<body>(?:[A-Za-z0-9+/=]++\r?\n)*+)"
    rb"-----END (?P=label)-----[ \t]*(?:\r?\n|\Z)"
)


def encode(certificates: Sequence[x509.Certificate]) -> bytes:
    """The certificates in their order, lines of 64 characters that end in a line feed. Raises CertificatesInvalid for no list."""
    check_list(certificates, "bundle")
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def parse(pem: bytes, what: str = "bundle") -> tuple[x509.Certificate, ...]:
    """The certificates of a file, in their order. `what` names the file in messages. Raises CertificatesInvalid.

    Line ends may be those of other systems, lines may be of other lengths, and empty lines may stand between blocks.
    """
    check_size(pem, what)
    return read_all(_documents(pem, what), what)


def _documents(pem: bytes, what: str) -> Iterator[bytes]:
    """The DER in each block; a fault is raised with the number of the block."""
    number, at = 1, _after_space(pem, 0)
    while at < len(pem):
        if number > MAX_CERTIFICATES:
            raise too_many(what)
        block = _BLOCK.match(pem, at)
        if block is None:
            raise CertificatesInvalid(
                f"{what}: block {number}: give only blocks from BEGIN CERTIFICATE to END CERTIFICATE, without other text"
            )
        yield _document(block["label"], block["body"], f"{what}: block {number}")
        number, at = number + 1, _after_space(pem, block.end())


def _after_space(pem: bytes, at: int) -> int:
    space = _SPACE.match(pem, at)
    return space.end() if space else at


def _document(label: bytes, body: bytes, what: str) -> bytes:
    if label.endswith(b"PRIVATE KEY"):
        raise CertificatesInvalid(
            f"{what} is a private key; give certificates only, and consider that key compromised"
        )
    if label != LABEL:
        raise CertificatesInvalid(f"{what} is a {label.decode('ascii')}; give certificates only")
    text = body.replace(b"\r", b"").replace(b"\n", b"")
    try:
        document = base64.b64decode(text, validate=True)
    except binascii.Error:
        document = b""
    if not document or base64.b64encode(document) != text:
        raise CertificatesInvalid(f"{what} is not valid base64; copy the file again")
    return document
