"""Wycheproof's values of ECDH on P-256 and of X25519: public keys in their one form, and envelopes whose `enc` they are."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from hsmd.envelopes import recipients
from hsmd.envelopes.content import spki_digest
from hsmd.envelopes.envelope import Envelope
from hsmd.envelopes.header import Header, Kind, Suite
from hsmd.envelopes.recipients import EcdhKey, PrivateKey
from hsmd.envelopes.sealing import open_envelope
from hsmd.envelopes.vault.public_keys import canonical_spki, load
from hsmd.errors import EnvelopeInvalid
from tests.support import hpke_reference as reference
from tests.support.vectors import vectors

FILES = vectors("envelopes/wycheproof_ecdh.json")["files"]
P256, X25519 = FILES["ecdh_secp256r1"], FILES["x25519_asn"]
SECRET = bytes(range(32))
NO_KEY = {"NonCanonicalPublic", "LowOrderPublic", "ZeroSharedSecret"}
"""Flags of public keys that some libraries take, and that have a second form or protect nothing."""


def raw(text: str) -> bytes:
    return bytes.fromhex(text)


def test_the_vectors_are_there() -> None:
    assert Counter(test["result"] for test in P256) == {"valid": 51, "invalid": 43, "acceptable": 20}
    assert Counter(test["result"] for test in X25519) == {"valid": 41, "invalid": 13, "acceptable": 80}


def p256_key(test: dict[str, Any]) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int(test["private"], 16), ec.SECP256R1())


def x25519_key(test: dict[str, Any]) -> x25519.X25519PrivateKey:
    key = load_der_private_key(raw(test["private"]), None)
    assert isinstance(key, x25519.X25519PrivateKey)
    return key


@pytest.mark.parametrize("test", P256, ids=lambda test: test["tcId"])
def test_p_256(test: dict[str, Any]) -> None:
    """What is no key on P-256, or one in another form, is refused; from all others comes the right secret."""
    if test["result"] != "valid":
        refused_or_another_curve(test)
        return
    key, peer = p256_key(test), load(raw(test["public"]))
    assert isinstance(peer, ec.EllipticCurvePublicKey)
    assert key.exchange(ec.ECDH(), peer) == raw(test["shared"])
    here = EcdhKey(key.public_key(), lambda sent: key.exchange(ec.ECDH(), sent))
    enc = peer.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    own = reference.point(key.public_key())
    shared = reference.dhkem_p256(raw(test["shared"]), enc, own)
    for opener in (key, here):
        assert opened(Suite.HPKE_P256, reference.P256, enc, shared, opener) == SECRET


def refused_or_another_curve(test: dict[str, Any]) -> None:
    try:
        found = canonical_spki(raw(test["public"]))
    except EnvelopeInvalid:
        return
    assert re.search("uses wrong curve|uses public key for", test["comment"])
    assert found.kind in ("p256", "p384", "p521")


@pytest.mark.parametrize("test", X25519, ids=lambda test: test["tcId"])
def test_x25519(test: dict[str, Any]) -> None:
    """The same; and of those that only some libraries refuse, all that are of small order or have a second form."""
    if test["flags"] == ["MissingOctetString"]:
        assert spki_digest(raw(test["private"])) is None
        return
    if test["result"] == "invalid":
        refused_or_another_curve(test)
        return
    if NO_KEY & set(test["flags"]):
        with pytest.raises(EnvelopeInvalid):
            canonical_spki(raw(test["public"]))
        return
    key, peer = x25519_key(test), load(raw(test["public"]))
    assert isinstance(peer, x25519.X25519PublicKey)
    assert key.exchange(peer) == raw(test["shared"])
    enc, own = peer.public_bytes_raw(), key.public_key().public_bytes_raw()
    shared = reference.dhkem_x25519(raw(test["shared"]), enc, own)
    assert opened(Suite.HPKE_X25519, reference.X25519, enc, shared, key) == SECRET


@pytest.mark.parametrize(
    "test", [test for test in X25519 if "ZeroSharedSecret" in test["flags"]], ids=lambda test: test["tcId"]
)
def test_an_envelope_whose_secret_is_zero_does_not_open(test: dict[str, Any]) -> None:
    """Everyone knows that secret, so the ciphertext fits (RFC 9180, section 7.1.4)."""
    key, enc = x25519_key(test), raw(test["public"])[-32:]
    assert raw(test["shared"]) == bytes(32)
    shared = reference.dhkem_x25519(bytes(32), enc, key.public_key().public_bytes_raw())
    with pytest.raises(EnvelopeInvalid):
        opened(Suite.HPKE_X25519, reference.X25519, enc, shared, key)


def opened(suite: Suite, kem: int, enc: bytes, shared: bytes, key: PrivateKey) -> bytes:
    """What our code opens of an envelope that the reference made from the shared secret of the test."""
    header = Header(suite, Kind.SECRET_KEY, recipients.digest(key.public_key()), about={"record": 1})
    made = reference.schedule(kem, reference.AES_256_GCM, enc, shared, header.encode())
    return open_envelope(Envelope(header, enc + made.seal(SECRET)), key)
