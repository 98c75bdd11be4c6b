"""Certificate requests and self-signed certificates, built by `cryptography` and by hand."""

from __future__ import annotations

import datetime as dt
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmd.algorithms import KeyType, SignatureScheme, schemes_for
from hsmd.errors import PurposeMismatch
from hsmd.purposes import Purpose, PurposeCheck
from hsmd.purposes.x509 import ALGORITHM_IDENTIFIERS


def spki_of(key) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def passes(check: PurposeCheck, purpose: int, scheme: int, data: bytes) -> bool:
    try:
        check.check(purpose, scheme, data)
    except PurposeMismatch:
        return False
    return True


KEYS = {
    KeyType.RSA_2048: rsa.generate_private_key(65537, 2048),
    KeyType.P384: ec.generate_private_key(ec.SECP384R1()),
    KeyType.ED25519: ed25519.Ed25519PrivateKey.generate(),
}
EVERY_SIGNATURE = [(key_type, scheme) for key_type in KEYS for scheme in schemes_for(key_type)]
NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "www.example")])
OTHER_NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ca.example")])


def signing_options(scheme: SignatureScheme) -> tuple:
    algorithm = {"": None, "sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}[
        scheme.facts.hash
    ]
    pss = PSS(MGF1(algorithm), scheme.facts.hash_bytes) if scheme.facts.padding.value == "pss" else None
    return algorithm, pss


def request_info(key, scheme: SignatureScheme, **extra) -> bytes:
    algorithm, pss = signing_options(scheme)
    builder = x509.CertificateSigningRequestBuilder(extra.get("subject", NAME))
    if extra.get("extensions", True):
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName("www.example")]), critical=False
        )
    return builder.sign(key, algorithm, rsa_padding=pss).tbs_certrequest_bytes


def tbs_certificate(
    key, scheme: SignatureScheme, issuer=NAME, subject=NAME, public=None, until=2049
) -> bytes:
    algorithm, pss = signing_options(scheme)
    begin, end = (dt.datetime(year, 1, 1, tzinfo=dt.UTC) for year in (2025, until))
    builder = x509.CertificateBuilder(issuer, subject, public or key.public_key(), 1234, begin, end)
    builder = builder.add_extension(x509.BasicConstraints(False, None), critical=True)
    return builder.sign(key, algorithm, rsa_padding=pss).tbs_certificate_bytes


@pytest.mark.parametrize(("key_type", "scheme"), EVERY_SIGNATURE)
def test_documents_built_by_cryptography_pass(key_type, scheme):
    key = KEYS[key_type]
    check = PurposeCheck(key_type, spki_of(key))
    check.check(Purpose.X509_REQUEST, scheme, request_info(key, scheme))
    check.check(
        Purpose.X509_REQUEST, scheme, request_info(key, scheme, extensions=False, subject=x509.Name([]))
    )
    for until in (2049, 2051):
        tbs = tbs_certificate(key, scheme, until=until)
        assert ALGORITHM_IDENTIFIERS[scheme] in tbs
        check.check(Purpose.X509_SELF_SIGNED, scheme, tbs)


@pytest.mark.parametrize("shape", [request_info, tbs_certificate])
@pytest.mark.parametrize("key_type", KEYS)
def test_every_truncation_and_every_trailing_byte_is_refused(shape, key_type):
    key, scheme = KEYS[key_type], schemes_for(key_type)[0]
    purpose = Purpose.X509_REQUEST if shape is request_info else Purpose.X509_SELF_SIGNED
    check, data = PurposeCheck(key_type, spki_of(key)), shape(key, scheme)
    assert passes(check, purpose, scheme, data)
    assert not any(passes(check, purpose, scheme, data[:size]) for size in range(len(data)))
    assert not any(passes(check, purpose, scheme, data + bytes([tail])) for tail in range(256))


def test_certificates_for_other_keys_are_refused():
    key, other = KEYS[KeyType.P384], ec.generate_private_key(ec.SECP384R1())
    scheme = SignatureScheme.ECDSA_SHA384
    check = PurposeCheck(KeyType.P384, spki_of(key))
    for text, tbs in {
        "issuer and subject differ": tbs_certificate(key, scheme, issuer=OTHER_NAME),
        "certifies another key": tbs_certificate(key, scheme, public=other.public_key()),
        "not the requested one": tbs_certificate(key, SignatureScheme.ECDSA_SHA256),
        "version": request_info(key, scheme),
    }.items():
        with pytest.raises(PurposeMismatch, match=text if text != "version" else "tag"):
            check.check(Purpose.X509_SELF_SIGNED, scheme, tbs)
    with pytest.raises(PurposeMismatch, match="another key"):
        check.check(Purpose.X509_REQUEST, scheme, request_info(other, scheme))
    with pytest.raises(PurposeMismatch, match="tag"):
        check.check(Purpose.X509_REQUEST, scheme, tbs_certificate(key, scheme))


def test_other_versions_are_refused():
    key, scheme = KEYS[KeyType.ED25519], SignatureScheme.ED25519
    check = PurposeCheck(KeyType.ED25519, spki_of(key))
    request, tbs = request_info(key, scheme), tbs_certificate(key, scheme)
    with pytest.raises(PurposeMismatch, match="not v1"):
        check.check(Purpose.X509_REQUEST, scheme, request.replace(b"\x02\x01\0", b"\x02\x01\1", 1))
    with pytest.raises(PurposeMismatch, match="not v3"):
        check.check(Purpose.X509_SELF_SIGNED, scheme, tbs.replace(b"\xa0\3\2\1\2", b"\xa0\3\2\1\1", 1))


def test_deep_nesting_is_refused_without_recursion():
    data = b""
    for _ in range(5000):
        size = len(data)
        data = (
            b"\x30"
            + (
                bytes([size])
                if size < 128
                else b"\x82" + size.to_bytes(2)
                if size > 255
                else bytes([0x81, size])
            )
            + data
        )
    with pytest.raises(PurposeMismatch, match="nested too deep"):
        PurposeCheck(KeyType.P256, b"").check(Purpose.X509_REQUEST, 0x0403, data)


def der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    assert len(body) < 256
    return bytes([tag, len(body)] if len(body) < 128 else [tag, 0x81, len(body)]) + body


NULL = b"\5\0"
SPKI = spki_of(KEYS[KeyType.ED25519])
ATTRIBUTE = (b"\6\1\x2a", der(0x31))
TIMES = (der(0x17, b"250101000000Z"), der(0x17, b"350101000000Z"))


def built_request(*, attribute=ATTRIBUTE, more: bytes = b"") -> bytes:
    return der(0x30, b"\2\1\0", der(0x30), SPKI, der(0xA0, der(0x30, *attribute)), more)


def built_tbs(*, times=TIMES, more: bytes = b"") -> bytes:
    algorithm = ALGORITHM_IDENTIFIERS[SignatureScheme.ED25519]
    return der(
        0x30, b"\xa0\3\2\1\2", b"\2\1\7", algorithm, der(0x30), der(0x30, *times), der(0x30), SPKI, more
    )


def test_documents_built_by_hand_pass():
    check = PurposeCheck(KeyType.ED25519, SPKI)
    check.check(Purpose.X509_REQUEST, SignatureScheme.ED25519, built_request())
    check.check(Purpose.X509_SELF_SIGNED, SignatureScheme.ED25519, built_tbs())
    check.check(Purpose.X509_SELF_SIGNED, SignatureScheme.ED25519, built_tbs(more=der(0xA3, der(0x30))))


@pytest.mark.parametrize(
    ("purpose", "data"),
    [
        (Purpose.X509_REQUEST, built_request() + NULL),
        (Purpose.X509_REQUEST, built_request(more=NULL)),
        (Purpose.X509_REQUEST, built_request(attribute=(*ATTRIBUTE, NULL))),
        (Purpose.X509_REQUEST, built_request(attribute=ATTRIBUTE[:1])),
        (Purpose.X509_SELF_SIGNED, built_tbs() + NULL),
        (Purpose.X509_SELF_SIGNED, built_tbs(more=NULL)),
        (Purpose.X509_SELF_SIGNED, built_tbs(more=der(0xA3, der(0x30)) + NULL)),
        (Purpose.X509_SELF_SIGNED, built_tbs(times=(*TIMES, TIMES[0]))),
        (Purpose.X509_SELF_SIGNED, built_tbs(times=TIMES[:1])),
        (Purpose.X509_SELF_SIGNED, built_tbs(more=b"\x82\2\0\1")),
    ],
)
def test_missing_and_additional_elements_are_refused(purpose, data):
    assert not passes(PurposeCheck(KeyType.ED25519, SPKI), purpose, SignatureScheme.ED25519, data)


def test_a_request_does_not_end_like_an_openpgp_signature():
    """An address at its end would be the hashed fields and the trailer of a signature over what is before (RFC 9580)."""
    key = KEYS[KeyType.P384]
    check = PurposeCheck(KeyType.P384, spki_of(key))
    for end, passing in (("0400:1309:0000:04ff:0000:0006", False), ("0400:1309:0000:04ff:0001:0006", True)):
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("2001:db8:" + end))])
        builder = x509.CertificateSigningRequestBuilder(NAME).add_extension(names, critical=False)
        info = builder.sign(key, hashes.SHA384()).tbs_certrequest_bytes
        assert info.endswith(bytes.fromhex(end.replace(":", "")))
        assert passes(check, Purpose.X509_REQUEST, 0x0503, info) == passing
