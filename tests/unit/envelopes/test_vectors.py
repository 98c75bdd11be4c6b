"""Published values: Wycheproof's of AES-KWP and RSA-OAEP, RFC 9180's of HPKE, the HPKE working group's of X-Wing."""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import product
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.bindings._rust import openssl as rust_openssl
from cryptography.hazmat.primitives import hpke as library
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from cryptography.hazmat.primitives.serialization import load_der_private_key
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKey

from hsmd.envelopes import hpke, rsa_aes_kwp
from hsmd.envelopes.envelope import Envelope
from hsmd.envelopes.header import Kind, Suite
from hsmd.envelopes.recipients import HybridPrivateKey, PrivateKey
from hsmd.envelopes.sealing import open_envelope
from hsmd.errors import EnvelopeInvalid
from tests.support import hpke_reference as reference
from tests.support.envelopes import golden
from tests.support.vectors import vectors

KWP = vectors("envelopes/wycheproof_aes_kwp.json")["tests"]
OAEP = vectors("envelopes/wycheproof_rsa_oaep.json")
HPKE = {test["kem_id"]: test for test in vectors("envelopes/hpke.json")["tests"]}
SUITES = {"SHA-1": Suite.RSA_OAEP_SHA1_KWP, "SHA-256": Suite.RSA_OAEP_SHA256_KWP}


def raw(text: str) -> bytes:
    return bytes.fromhex(text)


@cache
def oaep_key(number: int) -> rsa.RSAPrivateKey:
    key = load_der_private_key(raw(OAEP["keys"][number]["privateKeyPkcs8"]), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def test_the_vectors_are_there() -> None:
    assert Counter(test["result"] for test in KWP) == {"valid": 25, "invalid": 69}
    assert Counter(test["result"] for test in OAEP["tests"]) == {"valid": 53, "invalid": 57}
    assert set(HPKE) == {reference.P256, reference.X25519, reference.XWING}


@pytest.mark.parametrize("test", KWP, ids=lambda test: test["tcId"])
def test_aes_kwp(test: dict[str, Any]) -> None:
    key, wrapped = raw(test["key"]), raw(test["ct"])
    if test["result"] == "invalid":
        with pytest.raises(EnvelopeInvalid):
            rsa_aes_kwp.kwp_unwrap(key, wrapped)
        return
    assert rsa_aes_kwp.kwp_unwrap(key, wrapped) == raw(test["msg"])
    assert rsa_aes_kwp.kwp_wrap(key, raw(test["msg"])) == wrapped


@pytest.mark.parametrize("test", OAEP["tests"], ids=lambda test: f"{test['key']}-{test['tcId']}")
def test_rsa_oaep(test: dict[str, Any]) -> None:
    group = OAEP["keys"][test["key"]]
    assert group["sha"] == group["mgfSha"]
    suite, key = SUITES[group["sha"]], oaep_key(test["key"])
    if test["result"] == "invalid" or test["label"]:  # envelopes have an empty label
        with pytest.raises(EnvelopeInvalid) as caught:
            rsa_aes_kwp.oaep_decrypt(key, suite, raw(test["ct"]))
        assert caught.value.text == EnvelopeInvalid.default_text
        return
    assert rsa_aes_kwp.oaep_decrypt(key, suite, raw(test["ct"])) == raw(test["msg"])
    other = next(each for each in SUITES.values() if each is not suite)
    with pytest.raises(EnvelopeInvalid):
        rsa_aes_kwp.oaep_decrypt(key, other, raw(test["ct"]))


# --- ours ---


def test_there_is_a_golden_envelope_of_every_suite_and_kind() -> None:
    assert {(each.header.suite, each.header.kind) for _, each, _ in golden()} == set(product(Suite, Kind))


@pytest.mark.parametrize(("key", "envelope", "content"), golden(), ids=lambda value: getattr(value, "header", None) and value.header.suite)  # fmt: skip
def test_golden_envelopes_open(key: PrivateKey, envelope: Envelope, content: bytes) -> None:
    """Envelopes are stored for years, so what one release seals, all later ones open."""
    assert open_envelope(envelope, key) == content


# --- HPKE ---


def p256_key(number: str) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int(number, 16), ec.SECP256R1())


def x25519_key(number: str) -> x25519.X25519PrivateKey:
    return x25519.X25519PrivateKey.from_private_bytes(raw(number))


def opened(suite: Any, test: dict[str, Any], key: Any) -> bytes:
    """What the library in use makes of a vector. The vectors have associated data, for which it has a private function."""
    message = raw(test["enc"]) + raw(test["ct"])
    decrypt = rust_openssl.hpke._decrypt_with_aad
    for wrong in (
        message[:-1] + bytes([message[-1] ^ 1]),
        message[:-1],
        bytes([message[0] ^ 1]) + message[1:],
    ):
        with pytest.raises((InvalidTag, ValueError)):
            decrypt(suite, wrong, key, info=raw(test["info"]), aad=raw(test["aad"]))
    return decrypt(suite, message, key, info=raw(test["info"]), aad=raw(test["aad"]))


def test_rfc_9180_p256() -> None:
    test = HPKE[reference.P256]
    assert opened(hpke.library_suite(Suite.HPKE_P256), test, p256_key(test["skRm"])) == raw(test["pt"])
    ephemeral, key = p256_key(test["skEm"]), p256_key(test["skRm"]).public_key()
    enc, recipient = reference.point(ephemeral.public_key()), reference.point(key)
    shared = reference.dhkem_p256(ephemeral.exchange(ec.ECDH(), key), enc, recipient)
    check_reference(test, enc, shared)
    check_pyhpke(test, KEMId.DHKEM_P256_HKDF_SHA256, ephemeral, key)


def test_rfc_9180_x25519() -> None:
    test = HPKE[reference.X25519]
    assert opened(hpke.library_suite(Suite.HPKE_X25519), test, x25519_key(test["skRm"])) == raw(test["pt"])
    ephemeral, key = x25519_key(test["skEm"]), x25519_key(test["skRm"]).public_key()
    enc = ephemeral.public_key().public_bytes_raw()
    shared = reference.dhkem_x25519(ephemeral.exchange(key), enc, key.public_bytes_raw())
    check_reference(test, enc, shared)
    check_pyhpke(test, KEMId.DHKEM_X25519_HKDF_SHA256, ephemeral, key)


def test_xwing() -> None:
    """The published values of X-Wing with HKDF-SHA256 have ChaCha20-Poly1305; the KEM is that of our suite."""
    test = HPKE[reference.XWING]
    keys = HybridPrivateKey(*reference.xwing_keys(raw(test["skRm"])))
    public = keys.public_key()
    assert public.mlkem768.public_bytes_raw() + public.x25519.public_bytes_raw() == raw(test["pkRm"])
    assert public.spki().endswith(raw(test["pkRm"]))
    suite = library.Suite(
        library.KEM.MLKEM768_X25519, library.KDF.HKDF_SHA256, library.AEAD.CHACHA20_POLY1305
    )
    key = library.MLKEM768X25519PrivateKey(keys.mlkem768, keys.x25519)
    assert opened(suite, test, key) == raw(test["pt"])
    check_reference(
        test, raw(test["enc"]), reference.xwing_decapsulate(keys.mlkem768, keys.x25519, raw(test["enc"]))
    )


def check_reference(test: dict[str, Any], enc: bytes, shared: bytes) -> None:
    """The reference of these tests makes exactly the values of the vector."""
    assert (enc, shared) == (raw(test["enc"]), raw(test["shared_secret"]))
    made = reference.schedule(test["kem_id"], test["aead_id"], enc, shared, raw(test["info"]))
    assert (made.key, made.base_nonce) == (raw(test["key"]), raw(test["base_nonce"]))
    assert made.seal(raw(test["pt"]), raw(test["aad"])) == raw(test["ct"])


def check_pyhpke(test: dict[str, Any], kem: KEMId, ephemeral: Any, key: Any) -> None:
    """pyhpke makes exactly the values of the vector when it is given the ephemeral key."""
    suite = CipherSuite.new(kem, KDFId.HKDF_SHA256, AEADId.AES256_GCM)
    pair = suite.kem.derive_key_pair(raw(test["ikmE"]))
    enc, sender = suite.create_sender_context(
        KEMKey.from_pyca_cryptography_key(key), info=raw(test["info"]), eks=pair
    )
    assert enc == raw(test["enc"])
    assert sender.seal(raw(test["pt"]), raw(test["aad"])) == raw(test["ct"])
    assert ephemeral.public_key() == pair.public_key._key  # the vector's skEm
