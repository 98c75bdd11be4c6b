"""What the daemon signs for a key's certificate: certification requests (RFC 2986), self-signed certificates (RFC 5280)."""

from __future__ import annotations

from hsmd.algorithms import SignatureScheme
from hsmd.purposes import asn1
from hsmd.purposes.asn1 import DerReader
from hsmd.purposes.other_formats import ends_like_openpgp

_VERSION_1_REQUEST = b"\0"
_VERSION_3_CERTIFICATE = b"\2"

ALGORITHM_IDENTIFIERS: dict[SignatureScheme, bytes] = {
    # RFC 8017, appendix A.2.4: parameters NULL.
    SignatureScheme.RSA_PKCS1_SHA256: bytes.fromhex("300d06092a864886f70d01010b0500"),
    SignatureScheme.RSA_PKCS1_SHA384: bytes.fromhex("300d06092a864886f70d01010c0500"),
    SignatureScheme.RSA_PKCS1_SHA512: bytes.fromhex("300d06092a864886f70d01010d0500"),
    # RFC 5758, section 3.2: no parameters.
    SignatureScheme.ECDSA_SHA256: bytes.fromhex("300a06082a8648ce3d040302"),
    SignatureScheme.ECDSA_SHA384: bytes.fromhex("300a06082a8648ce3d040303"),
    SignatureScheme.ECDSA_SHA512: bytes.fromhex("300a06082a8648ce3d040304"),
    # RFC 4055, section 3.1: hash, MGF1 with the same hash, salt as long as the hash.
    SignatureScheme.RSA_PSS_SHA256: bytes.fromhex(
        "304106092a864886f70d01010a3034a00f300d06096086480165030402010500"
        "a11c301a06092a864886f70d010108300d06096086480165030402010500a203020120"
    ),
    SignatureScheme.RSA_PSS_SHA384: bytes.fromhex(
        "304106092a864886f70d01010a3034a00f300d06096086480165030402020500"
        "a11c301a06092a864886f70d010108300d06096086480165030402020500a203020130"
    ),
    SignatureScheme.RSA_PSS_SHA512: bytes.fromhex(
        "304106092a864886f70d01010a3034a00f300d06096086480165030402030500"
        "a11c301a06092a864886f70d010108300d06096086480165030402030500a203020140"
    ),
    # RFC 8410, section 3: no parameters.
    SignatureScheme.ED25519: bytes.fromhex("300506032b6570"),
}
"""The DER AlgorithmIdentifier of each scheme, as in a TBSCertificate."""


def check_request(spki: bytes, data: bytes) -> None:
    """Pass if `data` is the CertificationRequestInfo of the key `spki` (RFC 2986, section 4.1).

    Raises PurposeMismatch.
    """
    info = _members(data, "a certification request")
    if info.content(asn1.INTEGER) != _VERSION_1_REQUEST:
        raise info.mismatch("the version is not v1")
    info.whole(asn1.SEQUENCE)  # subject
    if info.whole(asn1.SEQUENCE) != spki:
        raise info.mismatch("it requests a certificate for another key")
    _check_attributes(info.enter(asn1.CONTEXT_0))
    info.finish()


def check_self_signed(spki: bytes, scheme: SignatureScheme, data: bytes) -> None:
    """Pass if `data` is the TBSCertificate (RFC 5280, section 4.1) of `spki`, signed by the same key.

    Raises PurposeMismatch.
    """
    tbs = _members(data, "a self-signed certificate")
    if tbs.content(asn1.CONTEXT_0) != bytes([asn1.INTEGER, 1]) + _VERSION_3_CERTIFICATE:
        raise tbs.mismatch("the version is not v3")
    tbs.whole(asn1.INTEGER)  # serialNumber
    if tbs.whole(asn1.SEQUENCE) != ALGORITHM_IDENTIFIERS[scheme]:
        raise tbs.mismatch("the signature algorithm in it is not the requested one")
    issuer = tbs.whole(asn1.SEQUENCE)
    _check_validity(tbs.enter(asn1.SEQUENCE))
    if tbs.whole(asn1.SEQUENCE) != issuer:
        raise tbs.mismatch("issuer and subject differ")
    if tbs.whole(asn1.SEQUENCE) != spki:
        raise tbs.mismatch("it certifies another key")
    if tbs.next_tag() is not None:
        tbs.enter(asn1.CONTEXT_3).whole(asn1.SEQUENCE)  # extensions
    tbs.finish()


def public_key_of_certificate(certificate: bytes, what: str) -> bytes:
    """The DER SubjectPublicKeyInfo of a DER Certificate (RFC 5280, section 4.1), byte for byte.

    Raises PurposeMismatch if `certificate` is not one; the text names it `what`.
    """
    outer = DerReader(certificate, what)
    fields = outer.enter(asn1.SEQUENCE)
    outer.finish()
    tbs = fields.enter(asn1.SEQUENCE)
    fields.whole(asn1.SEQUENCE)  # signatureAlgorithm
    fields.whole(asn1.BIT_STRING)  # signatureValue
    fields.finish()
    if tbs.next_tag() == asn1.CONTEXT_0:
        tbs.whole(asn1.CONTEXT_0)  # version
    tbs.whole(asn1.INTEGER)  # serialNumber
    for _ in ("signature", "issuer", "validity", "subject"):
        tbs.whole(asn1.SEQUENCE)
    return tbs.whole(asn1.SEQUENCE)


def _members(data: bytes, what: str) -> DerReader:
    """A reader for the members of the SEQUENCE that `data` must be; all of it must be DER.

    The end of the last member, such as an address, could be the trailer of an OpenPGP signature over what is before it.
    """
    DerReader(data, what).check_nesting()
    if ends_like_openpgp(data):
        raise DerReader(data, what).mismatch("it ends like an OpenPGP signature")
    outer = DerReader(data, what)
    members = outer.enter(asn1.SEQUENCE)
    outer.finish()
    return members


def _check_attributes(attributes: DerReader) -> None:
    while attributes.next_tag() is not None:
        attribute = attributes.enter(asn1.SEQUENCE)
        attribute.whole(asn1.OBJECT_IDENTIFIER)
        attribute.whole(asn1.SET)
        attribute.finish()


def _check_validity(validity: DerReader) -> None:
    for _ in ("notBefore", "notAfter"):
        late = validity.next_tag() == asn1.GENERALIZED_TIME
        validity.whole(asn1.GENERALIZED_TIME if late else asn1.UTC_TIME)
    validity.finish()
