"""Certs-only CMS: SignedData that signs nothing and holds certificates (RFC 5652, section 5; RFC 7030, section 4.1.3).

Certificates are a SET in it, so their order means nothing; DER sorts them by their bytes.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from hsmd.anchors.certificates import MAX_CERTIFICATES, check_list, check_size, der_faults, read_all, too_many
from hsmd.anchors.problems import CertificatesInvalid
from hsmd.purposes.asn1 import CONTEXT_0, INTEGER, OBJECT_IDENTIFIER, SEQUENCE, SET, DerReader

_WHAT = "certs-only message"
_CONTEXT_1 = 0xA1
_SIGNED_DATA = bytes.fromhex("2a864886f70d010702")
_DATA = bytes.fromhex("2a864886f70d010701")
_VERSION_1 = b"\x01"
_LINE = 64


def encode(certificates: Sequence[x509.Certificate]) -> bytes:
    """The message in DER. Raises CertificatesInvalid for no list."""
    check_list(certificates, _WHAT)
    return pkcs7.serialize_certificates(list(certificates), Encoding.DER)


def decode(data: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates of a message in DER. Raises CertificatesInvalid, also for signers, content and revocation lists."""
    check_size(data, _WHAT)
    with der_faults(_WHAT):
        documents = list(_documents(_signed_data(data)))
    return read_all(documents, _WHAT)


def encode_body(certificates: Sequence[x509.Certificate]) -> bytes:
    """The body of an answer to EST's /cacerts: the message in base64 (RFC 8951, section 3), in lines of 64 characters."""
    text = base64.b64encode(encode(certificates))
    return b"".join(text[at : at + _LINE] + b"\n" for at in range(0, len(text), _LINE))


def decode_body(body: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates in such a body; white space in it means nothing. Raises CertificatesInvalid."""
    check_size(body, _WHAT)
    try:
        data = base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error:
        raise CertificatesInvalid(f"{_WHAT}: the body is not valid base64; fetch it again") from None
    return decode(data)


def _signed_data(data: bytes) -> DerReader:
    """A reader of the members of SignedData."""
    whole = DerReader(data, "a ContentInfo")
    info = whole.enter(SEQUENCE)
    whole.finish()
    if info.content(OBJECT_IDENTIFIER) != _SIGNED_DATA:
        raise CertificatesInvalid(f"{_WHAT}: it is CMS of another type than SignedData")
    content = info.enter(CONTEXT_0)
    info.finish()
    signed = content.enter(SEQUENCE)
    content.finish()
    return signed


def _documents(signed: DerReader) -> Iterator[bytes]:
    """The encoded certificates. Whatever else SignedData may hold must be empty."""
    if signed.content(INTEGER) != _VERSION_1:
        raise CertificatesInvalid(f"{_WHAT}: certificates of X.509 alone have version 1 of SignedData")
    digests, encapsulated = signed.enter(SET), signed.enter(SEQUENCE)
    if encapsulated.content(OBJECT_IDENTIFIER) != _DATA or encapsulated.next_tag() is not None:
        raise CertificatesInvalid(f"{_WHAT}: it has content; give certificates only")
    if signed.next_tag() == CONTEXT_0:
        yield from _members(signed.enter(CONTEXT_0))
    if signed.next_tag() == _CONTEXT_1 and signed.content(_CONTEXT_1):
        raise CertificatesInvalid(f"{_WHAT}: it has revocation lists; give certificates only")
    signers = signed.content(SET)
    signed.finish()
    if signers or digests.next_tag() is not None:
        raise CertificatesInvalid(f"{_WHAT}: it is signed; give certificates only")


def _members(certificates: DerReader) -> Iterator[bytes]:
    count = 0
    while certificates.next_tag() is not None:
        count += 1
        if count > MAX_CERTIFICATES:
            raise too_many(_WHAT)
        yield certificates.whole(SEQUENCE)
