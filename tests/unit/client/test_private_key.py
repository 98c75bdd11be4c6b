"""Remote private keys: usable where `cryptography` signs with its own keys; everything else is refused with a reason."""

from __future__ import annotations

import copy
import datetime as dt
import hashlib
import pickle
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from hsmd.client import RemotePrivateKey
from hsmd.errors import BadRequest, Refused
from hsmd.protocol.frames import KeyOperation
from hsmd.purposes import Purpose
from tests.support.fake_daemon import sign

SOFT: dict[str, Any] = {
    "rsa": rsa.generate_private_key(65537, 2048),
    "p-256": ec.generate_private_key(ec.SECP256R1()),
    "p-384": ec.generate_private_key(ec.SECP384R1()),
    "p-521": ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
}
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "www.example.net")])
PSS = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)


class User:
    """Signs with a software key and records the requests."""

    def __init__(self, private: Any) -> None:
        self.private = private
        self.asked: list[KeyOperation] = []

    def use_key(self, key: bytes, purpose: int, scheme: int, data: bytes, *, timeout_s: float) -> bytes:
        assert isinstance(data, bytes)
        self.asked.append(KeyOperation(round(timeout_s * 1000), purpose, scheme, key, data))
        return sign(self.private, self.asked[-1])


def der(private: Any) -> bytes:
    return private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def remote(kind: str, **options: Any) -> tuple[Any, User]:
    user = User(SOFT[kind])
    return RemotePrivateKey.for_key(user, der(SOFT[kind]), name="www", **options), user


def hash_for(kind: str) -> Any:
    return None if kind == "ed25519" else hashes.SHA256()


@pytest.mark.parametrize("kind", SOFT)
def test_a_certificate_request_is_signed(kind: str) -> None:
    key, user = remote(kind)
    request = x509.CertificateSigningRequestBuilder().subject_name(NAME).sign(key, hash_for(kind))
    assert request.is_signature_valid
    assert request.public_key() == SOFT[kind].public_key()
    assert [(asked.purpose, asked.key) for asked in user.asked] == [
        (8, hashlib.sha256(der(SOFT[kind])).digest())
    ]


@pytest.mark.parametrize("kind", SOFT)
def test_a_certificate_and_a_revocation_list_are_signed(kind: str) -> None:
    key, _ = remote(kind)
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(NAME)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hash_for(kind))
    )
    certificate.verify_directly_issued_by(certificate)
    revoked = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(NAME)
        .last_update(now)
        .next_update(now)
        .sign(key, hash_for(kind))
    )
    assert revoked.is_signature_valid(SOFT[kind].public_key())


def test_a_certificate_request_is_signed_with_pss() -> None:
    key, _ = remote("rsa")
    request = (
        x509.CertificateSigningRequestBuilder().subject_name(NAME).sign(key, hashes.SHA256(), rsa_padding=PSS)
    )
    assert request.is_signature_valid


@pytest.mark.parametrize("algorithm", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
@pytest.mark.parametrize("pss", [False, True])
def test_rsa_schemes_verify(algorithm: Any, pss: bool) -> None:
    key, _ = remote("rsa")
    pad = padding.PSS(padding.MGF1(algorithm), algorithm.digest_size) if pss else padding.PKCS1v15()
    key.public_key().verify(key.sign(b"message", pad, algorithm), b"message", pad, algorithm)


@pytest.mark.parametrize("algorithm", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
@pytest.mark.parametrize("kind", ["p-256", "p-384", "p-521"])
def test_ecdsa_schemes_verify(kind: str, algorithm: Any) -> None:
    key, _ = remote(kind)
    key.public_key().verify(key.sign(b"message", ec.ECDSA(algorithm)), b"message", ec.ECDSA(algorithm))
    assert (key.curve.name, key.key_size) == (SOFT[kind].curve.name, SOFT[kind].key_size)


def test_ed25519_verifies() -> None:
    key, user = remote("ed25519")
    key.public_key().verify(key.sign(bytearray(b"message")), b"message")
    assert user.asked[0].scheme == 0x0807


def test_digests_of_the_caller_are_sent_as_sign_digest() -> None:
    digest = hashlib.sha256(b"message").digest()
    key, user = remote("p-256")
    signature = key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256())))
    key.public_key().verify(signature, b"message", ec.ECDSA(hashes.SHA256()))
    assert (user.asked[0].purpose, user.asked[0].data) == (Purpose.SIGN_DIGEST, digest)
    rsa_key, user = remote("rsa")
    signature = rsa_key.sign(digest, PSS, Prehashed(hashes.SHA256()))
    rsa_key.public_key().verify(signature, b"message", PSS, hashes.SHA256())
    with pytest.raises(ValueError, match="31 bytes instead of 32"):
        key.sign(digest[1:], ec.ECDSA(Prehashed(hashes.SHA256())))


def test_the_purpose_sign_digest_hashes_on_the_client() -> None:
    key, user = remote("p-384", purpose=Purpose.SIGN_DIGEST)
    key.public_key().verify(
        key.sign(b"message", ec.ECDSA(hashes.SHA384())), b"message", ec.ECDSA(hashes.SHA384())
    )
    assert user.asked[0].data == hashlib.sha384(b"message").digest()
    ed, _ = remote("ed25519", purpose=Purpose.SIGN_DIGEST)
    with pytest.raises(UnsupportedAlgorithm, match="sign-message"):
        ed.sign(b"message")


def test_a_tls_purpose_is_sent_and_accepts_no_digests() -> None:
    key, user = remote("p-256", purpose=Purpose.TLS13_SERVER, timeout_s=0.5)
    key.sign(b"to be signed", ec.ECDSA(hashes.SHA256()))
    assert (user.asked[0].purpose, user.asked[0].deadline_ms) == (Purpose.TLS13_SERVER, 500)
    with pytest.raises(UnsupportedAlgorithm, match="tls13-server"):
        key.sign(bytes(32), ec.ECDSA(Prehashed(hashes.SHA256())))


def test_a_premaster_secret_is_decrypted() -> None:
    key, user = remote("rsa")
    assert len(key.tls12_premaster(bytes(256))) == 48
    assert (user.asked[0].purpose, user.asked[0].scheme) == (Purpose.TLS12_RSA_PREMASTER, 0)


@pytest.mark.parametrize(
    ("pad", "algorithm"),
    [
        (padding.PKCS1v15(), hashes.SHA1()),
        (padding.PKCS1v15(), hashes.SHA224()),
        (padding.PKCS1v15(), hashes.SHA3_256()),
        (padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH), hashes.SHA256()),
        (padding.PSS(padding.MGF1(hashes.SHA256()), 20), hashes.SHA256()),
        (padding.PSS(padding.MGF1(hashes.SHA384()), padding.PSS.DIGEST_LENGTH), hashes.SHA256()),
    ],
)
def test_unsupported_rsa_signatures_are_refused(pad: Any, algorithm: Any) -> None:
    key, user = remote("rsa")
    with pytest.raises(UnsupportedAlgorithm):
        key.sign(b"message", pad, algorithm)
    assert user.asked == []


def test_wrong_types_raise_type_errors() -> None:
    key, _ = remote("rsa")
    with pytest.raises(TypeError):
        key.sign(b"message", "pkcs1", hashes.SHA256())
    with pytest.raises(TypeError):
        key.sign(b"message", padding.PKCS1v15(), "sha256")
    curve, _ = remote("p-256")
    with pytest.raises(TypeError):
        curve.sign(b"message", hashes.SHA256())


@pytest.mark.parametrize("kind", SOFT)
def test_operations_that_need_the_private_key_locally_are_refused(kind: str) -> None:
    key, user = remote(kind)
    with pytest.raises(UnsupportedAlgorithm, match="cannot be exported"):
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for name, arguments in (
        ("private_numbers", ()),
        ("private_bytes_raw", ()),
        ("decrypt", (b"", padding.PKCS1v15())),
        ("exchange", (ec.ECDH(), key.public_key())),
    ):
        if hasattr(key, name):
            with pytest.raises(UnsupportedAlgorithm):
                getattr(key, name)(*arguments)
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(key)
    assert user.asked == []


@pytest.mark.parametrize(
    ("kind", "interface"),
    [
        ("rsa", rsa.RSAPrivateKey),
        ("p-521", ec.EllipticCurvePrivateKey),
        ("ed25519", ed25519.Ed25519PrivateKey),
    ],
)
def test_remote_keys_have_the_types_that_libraries_check_for(kind: str, interface: type) -> None:
    key, _ = remote(kind)
    assert isinstance(key, interface)
    assert copy.copy(key) is key
    assert copy.deepcopy(key) is key


def test_repr_shows_only_name_and_type() -> None:
    assert repr(remote("p-256")[0]) == "<remote private key 'www', p-256>"
    assert repr(remote("rsa")[0]) == "<remote private key 'www', rsa-2048>"


def test_deterministic_ecdsa_is_refused() -> None:
    key, _ = remote("p-256")
    with pytest.raises(UnsupportedAlgorithm, match="nonces"):
        key.sign(b"message", ec.ECDSA(hashes.SHA256(), deterministic_signing=True))


@pytest.mark.parametrize(
    "public",
    [
        b"",
        b"garbage",
        der(ec.generate_private_key(ec.SECP256K1())),
        der(rsa.generate_private_key(65537, 1024)),
    ],
)
def test_unsupported_keys_are_refused(public: bytes) -> None:
    with pytest.raises(BadRequest, match="public_key"):
        RemotePrivateKey.for_key(User(None), public)


def test_refusals_pass_through_the_x509_builder() -> None:
    class Refusing(User):
        def use_key(self, *arguments: Any, **options: Any) -> bytes:
            raise Refused

    key = RemotePrivateKey.for_key(Refusing(None), der(SOFT["rsa"]))
    with pytest.raises(Refused):
        x509.CertificateSigningRequestBuilder().subject_name(NAME).sign(key, hashes.SHA256())
