"""Public halves of keys: written as attributes, read from a token, and refused if malformed."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from pkcs11 import Attribute, ObjectClass

from hsmd.algorithms import KeyType
from hsmd.pkcs11.public_keys import PublicHalf, public_attributes, read_public_half
from tests.support.certificate_versions import of_unknown_version
from tests.support.renewals import Key

PRIVATES = [
    rsa.generate_private_key(65537, 2048),
    ec.generate_private_key(ec.SECP256R1()),
    ec.generate_private_key(ec.SECP384R1()),
    ec.generate_private_key(ec.SECP521R1()),
    ed25519.Ed25519PrivateKey.generate(),
]
HALVES = [half for half in (PublicHalf.of(private.public_key()) for private in PRIVATES) if half is not None]
P256 = HALVES[1]


@pytest.mark.parametrize("half", HALVES, ids=lambda half: half.key_type.value)
def test_a_public_half_is_read_from_its_attributes(half: PublicHalf) -> None:
    attributes = public_attributes(half)
    assert read_public_half(attributes) == half
    if Attribute.EC_POINT in attributes:
        bare = attributes[Attribute.EC_POINT][2 if half.key_type is not KeyType.P521 else 3 :]
        assert read_public_half({**attributes, Attribute.EC_POINT: bare}) == half
    assert PublicHalf.from_spki(half.spki) == half
    assert PublicHalf.from_spki(half.spki + b"\0") is None


@pytest.mark.parametrize(
    "private", [ec.generate_private_key(ec.SECP256K1()), rsa.generate_private_key(65537, 1024)]
)
def test_unsupported_keys_have_no_public_half(
    private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
) -> None:
    assert PublicHalf.of(private.public_key()) is None


def test_a_point_off_the_curve_is_refused() -> None:
    attributes = public_attributes(P256)
    point = bytearray(attributes[Attribute.EC_POINT])
    point[-1] ^= 1
    assert read_public_half({**attributes, Attribute.EC_POINT: bytes(point)}) is None


def test_a_certificate_in_the_token_that_is_none_has_no_public_half() -> None:
    """Else whoever can store a certificate there, which needs no PIN in some tokens, ends every search for keys."""
    key = Key("www")
    document = x509.load_pem_x509_certificate(key.chain().encode()).public_bytes(Encoding.DER)
    certificate = {Attribute.CLASS: ObjectClass.CERTIFICATE, Attribute.VALUE: document}
    assert read_public_half(certificate) == PublicHalf.from_spki(key.public_key)
    for damaged in (document[:-1], of_unknown_version(key.chain())[1]):
        assert read_public_half({**certificate, Attribute.VALUE: damaged}) is None
