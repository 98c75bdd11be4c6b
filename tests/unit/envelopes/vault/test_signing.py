"""Signatures of owners: which keys sign, and that a signature counts for one kind of text only."""

from __future__ import annotations

from itertools import permutations

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given, strategies as st

from hsmd.envelopes.vault.signing import (
    MAX_SIGNATURE_BYTES,
    Kind,
    SigningPublicKey,
    context,
    pss,
    raw_to_der,
    sign,
    to_be_signed,
)
from hsmd.errors import EnvelopeInvalid, ProofInvalid
from tests.support.envelopes import rsa_key
from tests.support.mutations import cuts_and_extensions, single_byte_changes
from tests.support.vault_formats import signing_key, spki

NAMES = ["p256", "ed25519", "rsa"]
TEXT = b'{"format":"hsmd-vault-record/1"}'


def public(name: str, number: int = 0) -> SigningPublicKey:
    return SigningPublicKey.from_spki(spki(signing_key(name, number).public_key()))


def test_what_is_signed_begins_with_its_context() -> None:
    assert context(Kind.MANAGEMENT_KEY) == b"hsmd vault management-key v1\0"
    assert context(Kind.RECORD) == b"hsmd vault record v1\0"
    assert context(Kind.PROOF) == b"hsmd vault proof v1\0"
    assert context(Kind.POSSESSION) == b"hsmd vault possession v1\0"
    assert to_be_signed(Kind.PROOF, TEXT) == b"hsmd vault proof v1\0" + TEXT


def test_no_context_begins_another() -> None:
    """So no text of one kind can be read as one of another kind."""
    for one, other in permutations(Kind, 2):
        assert not context(one).startswith(context(other))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", Kind)
def test_a_signature_counts_for_one_kind_and_one_key(name: str, kind: Kind) -> None:
    signature = sign(signing_key(name), kind, TEXT)
    public(name).verify(kind, TEXT, signature)
    for other in set(Kind) - {kind}:
        with pytest.raises(ProofInvalid):
            public(name).verify(other, TEXT, signature)
    with pytest.raises(ProofInvalid):
        public(name, 1).verify(kind, TEXT, signature)
    with pytest.raises(ProofInvalid):
        public(name).verify(kind, TEXT + b" ", signature)


@pytest.mark.parametrize("name", NAMES)
def test_every_change_of_a_signature_is_refused(name: str) -> None:
    signature = sign(signing_key(name), Kind.PROOF, TEXT)
    for altered in single_byte_changes(signature):
        with pytest.raises(ProofInvalid):
            public(name).verify(Kind.PROOF, TEXT, altered)
    for altered in cuts_and_extensions(signature):
        with pytest.raises(ProofInvalid):
            public(name).verify(Kind.PROOF, TEXT, altered)


@pytest.mark.parametrize("name", NAMES)
@given(text=st.binary(max_size=100), signature=st.binary(max_size=600))
def test_any_other_signature_is_refused(name: str, text: bytes, signature: bytes) -> None:
    with pytest.raises(ProofInvalid):
        public(name).verify(Kind.RECORD, text, signature)


def test_the_size_of_a_signature_is_bounded_before_it_is_verified() -> None:
    with pytest.raises(ProofInvalid, match=str(MAX_SIGNATURE_BYTES)):
        public("rsa").verify(Kind.PROOF, TEXT, bytes(MAX_SIGNATURE_BYTES + 1))


@pytest.mark.parametrize(
    "key",
    [
        rsa_key(0, 2048).public_key(),
        ec.generate_private_key(ec.SECP384R1()).public_key(),
        ec.generate_private_key(ec.SECP521R1()).public_key(),
        x25519.X25519PrivateKey.generate().public_key(),
    ],
    ids=["RSA-2048", "P-384", "P-521", "X25519"],
)
def test_keys_of_other_kinds_do_not_sign(
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | x25519.X25519PublicKey,
) -> None:
    with pytest.raises(EnvelopeInvalid, match="signing key: choose"):
        SigningPublicKey.from_spki(spki(key))


def test_an_rsa_signature_has_the_one_padding() -> None:
    """PSS with SHA-256, also in MGF1, and a salt of 32 bytes; a signature with another one is none."""
    key = signing_key("rsa")
    assert isinstance(key, rsa.RSAPrivateKey)
    data = to_be_signed(Kind.PROOF, TEXT)
    others = [
        key.sign(data, padding.PKCS1v15(), hashes.SHA256()),
        key.sign(data, padding.PSS(padding.MGF1(hashes.SHA256()), 0), hashes.SHA256()),
        key.sign(data, padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH), hashes.SHA256()),
        key.sign(data, padding.PSS(padding.MGF1(hashes.SHA1()), 32), hashes.SHA256()),
        key.sign(data, padding.PSS(padding.MGF1(hashes.SHA384()), 32), hashes.SHA384()),
    ]
    public("rsa").verify(Kind.PROOF, TEXT, key.sign(data, pss(), hashes.SHA256()))
    for other in others:
        with pytest.raises(ProofInvalid):
            public("rsa").verify(Kind.PROOF, TEXT, other)


def test_a_signature_of_a_token_is_brought_into_der() -> None:
    key = signing_key("p256")
    signature = sign(key, Kind.RECORD, TEXT)
    r, s = decode_dss_signature(signature)
    assert raw_to_der(r.to_bytes(32, "big") + s.to_bytes(32, "big")) == signature
    for other in (b"", bytes(63), bytes(65), bytes(96)):
        with pytest.raises(EnvelopeInvalid, match="64 bytes"):
            raw_to_der(other)
    with pytest.raises(ProofInvalid):
        public("p256").verify(Kind.RECORD, TEXT, r.to_bytes(32, "big") + s.to_bytes(32, "big"))


def test_a_private_key_is_in_no_representation() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    shown = repr(SigningPublicKey.from_spki(spki(key.public_key())))
    assert key.private_bytes_raw().hex() not in shown
