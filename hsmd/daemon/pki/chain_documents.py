"""The certificates in the PEM text that a client sends: nothing else may be in it, so that nothing unchecked is stored."""

from __future__ import annotations

import base64
import binascii
import re

from cryptography import x509

from hsmd.anchors.certificates import UNREADABLE
from hsmd.errors import BadRequest

MAX_CERTIFICATES = 10
"""TLS libraries reject longer chains, too."""
MAX_CHAIN_CHARACTERS = 60_000
LABEL = "CERTIFICATE"
_BLOCK = re.compile(
    r"\s*-----BEGIN (?P<label>[A-Z0-9 ]{1,60})-----\r?\n"
    r"(?P<body>[A-Za-z0-9+/=\r\n]*)"
    r"-----END (?P=label)-----[ \t]*(?:\r?\n|\Z)"
)


def documents_in(chain_pem: str) -> list[bytes]:
    """The DER of each block. Raises BadRequest for anything else."""
    if len(chain_pem) > MAX_CHAIN_CHARACTERS:
        raise BadRequest(
            f"chain: at most {MAX_CHAIN_CHARACTERS} characters; give the certificates of the chain only"
        )
    documents: list[bytes] = []
    position = 0
    while chain_pem[position:].strip():
        block = _BLOCK.match(chain_pem, position)
        if block is None:
            raise BadRequest(
                "chain: give only blocks from BEGIN CERTIFICATE to END CERTIFICATE, without other text"
            )
        documents.append(_document(block["label"], block["body"]))
        position = block.end()
        if len(documents) > MAX_CERTIFICATES:
            raise BadRequest(f"chain: at most {MAX_CERTIFICATES} certificates; give those of the chain only")
    if not documents:
        raise BadRequest("chain: it contains no certificate; give PEM, the certificate of the key first")
    return documents


def _document(label: str, body: str) -> bytes:
    if label.endswith("PRIVATE KEY"):
        raise BadRequest(
            "chain: it contains a private key; give certificates only, and consider that key compromised"
        )
    if label != LABEL:
        raise BadRequest(f"chain: it contains a {label} block; give certificates only")
    try:
        return base64.b64decode(body.replace("\r", "").replace("\n", ""), validate=True)
    except binascii.Error:
        raise BadRequest("chain: a certificate is not valid base64; copy the file again") from None


def parsed(position: int, document: bytes) -> x509.Certificate:
    """The certificate at `position`, counted from 1. Raises BadRequest."""
    try:
        certificate = x509.load_der_x509_certificate(document)
        _ = certificate.extensions, certificate.subject, certificate.issuer
    except UNREADABLE:
        raise BadRequest(f"chain: certificate {position} is not a well-formed X.509 certificate") from None
    return certificate
