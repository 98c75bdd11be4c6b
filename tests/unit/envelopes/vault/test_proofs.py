"""Proofs: good for one request on one connection, by one key; deposits and challenges are not taken for each other."""

from __future__ import annotations

import hmac
import json
import os
from dataclasses import replace
from hashlib import sha256
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, x25519
from hypothesis import given, strategies as st

from hsmd.envelopes import sealing
from hsmd.envelopes.header import Suite
from hsmd.envelopes.recipients import PrivateKey
from hsmd.envelopes.sealing import seal_private_key, seal_secret_key
from hsmd.envelopes.vault import proofs
from hsmd.envelopes.vault.about import challenge_about, deposit_about, possession_about
from hsmd.envelopes.vault.management_keys import WrappingSuite
from hsmd.envelopes.vault.proofs import Proof, ProofContext, ProofKind
from hsmd.envelopes.vault.signing import Kind, SigningPublicKey, sign, to_be_signed
from hsmd.errors import EnvelopeInvalid, ProofInvalid
from hsmd.protocol.messages import vault_types
from hsmd.protocol.messages.vault_records import VaultGet
from hsmd.protocol.messages.vault_types import VaultProof
from tests.support.envelopes import contents, rsa_key
from tests.support.mutations import cuts_and_extensions, single_byte_changes
from tests.support.vault_formats import OWNER, RECORD, owner, signing_key, spki

BINDING, NONCE, SECRET = b"session identifier", bytes(range(32)), bytes(range(32, 64))
CONTEXT = ProofContext("fra-1", BINDING, OWNER, "vault.get", RECORD, 3, sha256(b"request").digest(), NONCE)
OTHERS: list[dict[str, Any]] = [
    {"daemon": "lon-1"},
    {"binding": b"another connection"},
    {"owner": "bert"},
    {"verb": "vault.destroy"},
    {"record": "mail"},
    {"record": ""},
    {"version": 4},
    {"version": 0},
    {"request": sha256(b"another request").digest()},
    {"nonce": bytes(32)},
]
"""Contexts that differ in one member."""
OPENERS = sorted(set(WrappingSuite) - {WrappingSuite.SYMMETRIC})
SIGNERS = ["p256", "ed25519", "rsa"]


def public(name: str, number: int = 0) -> SigningPublicKey:
    return SigningPublicKey.from_spki(spki(signing_key(name, number).public_key()))


def test_a_proof_covers_this_text() -> None:
    assert json.loads(CONTEXT.text()) == {
        "binding": sha256(BINDING).hexdigest(),
        "daemon": "fra-1",
        "format": "hsmd-vault-proof/1",
        "nonce": NONCE.hex(),
        "owner": "anna",
        "record": "web",
        "request": sha256(b"request").hexdigest(),
        "verb": "vault.get",
        "version": 3,
    }
    assert (
        CONTEXT.text()
        == json.dumps(json.loads(CONTEXT.text()), sort_keys=True, separators=(",", ":")).encode()
    )
    assert replace(CONTEXT, record="", version=0).text() != CONTEXT.text()


@pytest.mark.parametrize("name", SIGNERS)
def test_a_signature_is_good_for_its_request_only(name: str) -> None:
    proof = proofs.sign_proof(signing_key(name), CONTEXT)
    proofs.verify_signature(proof, CONTEXT, public(name))
    with pytest.raises(ProofInvalid):
        proofs.verify_signature(proof, CONTEXT, public(name, 1))
    for change in OTHERS:
        with pytest.raises(ProofInvalid):
            proofs.verify_signature(proof, replace(CONTEXT, **change), public(name))
    for altered in (*single_byte_changes(proof.value), *cuts_and_extensions(proof.value)):
        with pytest.raises(ProofInvalid):
            proofs.verify_signature(Proof(ProofKind.SIGNATURE, altered), CONTEXT, public(name))


@pytest.mark.parametrize("kind", sorted(set(Kind) - {Kind.PROOF}))
def test_a_signature_of_another_kind_is_no_proof(kind: Kind) -> None:
    """Even over exactly the text of the proof."""
    proof = Proof(ProofKind.SIGNATURE, sign(signing_key(), kind, CONTEXT.text()))
    with pytest.raises(ProofInvalid):
        proofs.verify_signature(proof, CONTEXT, public("p256"))


@pytest.mark.parametrize("of", OPENERS)
def test_an_opened_challenge_is_good_for_its_request_only(of: WrappingSuite) -> None:
    who = owner(of)
    for suite in of.suites:
        to = who.statement.wrapping_key
        assert to is not None
        sealed = proofs.seal_challenge(SECRET, NONCE, to, suite)
        opened = proofs.open_challenge(sealed, NONCE, who.wrapping)
        assert opened == SECRET
        proof = proofs.answer_challenge(opened, CONTEXT)
        proofs.verify_opened(proof, CONTEXT, SECRET)
    for change in OTHERS:
        with pytest.raises(ProofInvalid):
            proofs.verify_opened(proof, replace(CONTEXT, **change), SECRET)
    for altered in (*single_byte_changes(proof.value), *cuts_and_extensions(proof.value), b"", SECRET):
        with pytest.raises(ProofInvalid):
            proofs.verify_opened(Proof(ProofKind.OPENED, altered), CONTEXT, SECRET)
    with pytest.raises(ProofInvalid):
        proofs.verify_opened(proof, CONTEXT, bytes(32))


def test_an_opened_challenge_has_the_documented_form() -> None:
    expected = hmac.digest(SECRET, b"hsmd vault proof v1\0" + CONTEXT.text(), "sha256")
    assert proofs.answer_challenge(SECRET, CONTEXT).value == expected


def test_the_two_kinds_are_not_taken_for_each_other() -> None:
    signed, opened = proofs.sign_proof(signing_key(), CONTEXT), proofs.answer_challenge(SECRET, CONTEXT)
    with pytest.raises(ProofInvalid):
        proofs.verify_signature(replace(signed, kind=ProofKind.OPENED), CONTEXT, public("p256"))
    with pytest.raises(ProofInvalid):
        proofs.verify_opened(replace(opened, kind=ProofKind.SIGNATURE), CONTEXT, SECRET)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"daemon": ""}, "daemon"),
        ({"daemon": "a b"}, "daemon"),
        ({"binding": b""}, "no session identifier"),
        ({"owner": ""}, "owner"),
        ({"verb": ""}, "verb"),
        ({"verb": "vault.get\n"}, "verb"),
        ({"verb": "a" * 65}, "verb"),
        ({"record": "a/b"}, "record"),
        ({"version": -1}, "version"),
        ({"version": True}, "version"),
        ({"request": b""}, "request"),
        ({"request": bytes(31)}, "request"),
        ({"nonce": bytes(31)}, "nonce"),
        ({"nonce": bytes(33)}, "nonce"),
    ],
)
def test_what_no_request_has_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(EnvelopeInvalid, match=words):
        replace(CONTEXT, **change).text()


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_the_secret_of_a_challenge_has_32_bytes(length: int) -> None:
    """An empty one would be known to everyone."""
    to = owner(WrappingSuite.X25519).wrapping.public_key()
    for use in (
        lambda: proofs.seal_challenge(bytes(length), NONCE, to, Suite.HPKE_X25519),
        lambda: proofs.answer_challenge(bytes(length), CONTEXT),
        lambda: proofs.verify_opened(Proof(ProofKind.OPENED, bytes(32)), CONTEXT, bytes(length)),
    ):
        with pytest.raises(EnvelopeInvalid, match="32 bytes"):
            use()


def test_secrets_and_proofs_are_in_no_representation() -> None:
    proof = proofs.answer_challenge(SECRET, CONTEXT)
    assert repr(proof.value) not in repr(proof)
    assert repr(BINDING) not in repr(CONTEXT)


# --- the digest of a request ---


def test_the_digest_of_a_request_has_the_documented_form() -> None:
    members = {"op": "vault.get", "record": "web", "version": 3}
    expected = sha256(b'{"op":"vault.get","record":"web","version":3}').digest()
    assert proofs.request_digest(members) == expected
    for more in ({"proof": {"kind": "signature"}}, {"wrapping_proof": {"kind": "opened"}}, {"note": None}):
        assert proofs.request_digest(members | more) == expected
    assert proofs.request_digest(members | {"version": 4}) != expected
    with pytest.raises(EnvelopeInvalid):
        proofs.request_digest({"op": "vault.get", "seconds": 1.5})


def test_the_members_that_are_left_out_are_those_of_the_protocol() -> None:
    proof = VaultProof(NONCE, "signature", b"value")
    request = VaultGet(record="web", version=3, proof=proof)
    assert proofs.UNPROVED == vault_types.UNPROVED
    assert proofs.request_digest(msgspec.to_builtins(request)) == proofs.request_digest(
        vault_types.proved_members(request)
    )


# --- deposits, challenges and possession are three things ---


@pytest.mark.parametrize("of", OPENERS)
def test_an_envelope_of_another_purpose_is_refused_before_the_key_is_used(
    of: WrappingSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that hands out a deposited symmetric key as a challenge gets no MAC with it."""
    key, suite = owner(of).wrapping, min(of.suites)
    abouts = [
        deposit_about(OWNER, RECORD, 1),
        possession_about(NONCE),
        challenge_about(bytes(32)),
        challenge_about(NONCE) | {"more": 1},
        {"nonce": NONCE.hex()},
        {"purpose": "vault-challenge"},
        {},
    ]
    sealed = [seal_secret_key(SECRET, key.public_key(), suite, about).encode() for about in abouts]
    private = seal_private_key(contents()["P-256"], key.public_key(), suite, challenge_about(NONCE)).encode()
    good = proofs.seal_challenge(SECRET, NONCE, key.public_key(), suite)
    monkeypatch.setattr(proofs, "open_envelope", None)
    for other in sealed:
        with pytest.raises(EnvelopeInvalid, match="not for vault-challenge"):
            proofs.open_challenge(other, NONCE, key)
    with pytest.raises(EnvelopeInvalid, match="private key"):
        proofs.open_challenge(private, NONCE, key)
    with pytest.raises(EnvelopeInvalid, match="not for vault-possession"):
        proofs.open_possession(good, NONCE, key)
    assert sealing.open_envelope(proofs.checked_challenge(good, NONCE), key) == SECRET


@pytest.mark.parametrize("of", OPENERS)
def test_every_change_of_a_challenge_is_refused(of: WrappingSuite) -> None:
    to, suite = owner(of).statement.wrapping_key, min(of.suites)
    assert to is not None
    good = proofs.seal_challenge(SECRET, NONCE, to, suite)
    step = 37 if of is WrappingSuite.HYBRID else 5  # every byte of envelopes is changed in test_tampering.py
    for altered in list(single_byte_changes(good))[::step]:
        with pytest.raises(EnvelopeInvalid):
            proofs.open_challenge(altered, NONCE, owner(of).wrapping)


@given(st.binary(max_size=200))
def test_any_other_bytes_are_no_challenge(data: bytes) -> None:
    with pytest.raises(EnvelopeInvalid):
        proofs.checked_challenge(data, NONCE)


# --- possession ---

TRANSACTION = {
    "rsa-2048": rsa_key(0),
    "rsa-4096": rsa_key(0, 4096),
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "p521": ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "x25519": x25519.X25519PrivateKey.generate(),
}
SIGNING = sorted(set(TRANSACTION) - {"x25519"})
OPENING = ["p256", "rsa-2048", "x25519"]


def possession(kind: str, **changes: Any) -> bytes:
    members = {
        "daemon": "fra-1", "binding": BINDING, "owner": OWNER, "record": RECORD, "version": 1,
        "key": sha256(spki(TRANSACTION[kind].public_key())).hexdigest(), "nonce": NONCE,
    }  # fmt: skip
    return proofs.possession_text(**members | changes)  # type: ignore[arg-type]


def test_possession_covers_this_text() -> None:
    assert json.loads(possession("p256")) == {
        "binding": sha256(BINDING).hexdigest(),
        "daemon": "fra-1",
        "format": "hsmd-vault-possession/1",
        "key": sha256(spki(TRANSACTION["p256"].public_key())).hexdigest(),
        "nonce": NONCE.hex(),
        "owner": "anna",
        "record": "web",
        "version": 1,
    }
    for change in (
        {"key": ""},
        {"record": ""},
        {"version": 0},
        {"nonce": b""},
        {"binding": b""},
        {"owner": "a b"},
    ):
        with pytest.raises(EnvelopeInvalid, match="proof of possession"):
            possession("p256", **change)


@pytest.mark.parametrize("kind", SIGNING)
def test_a_key_that_signs_proves_that_it_is_there(kind: str) -> None:
    key, text = TRANSACTION[kind], possession(kind)
    assert not isinstance(key, x25519.X25519PrivateKey)
    proof, der = proofs.sign_possession(key, text), spki(key.public_key())
    proofs.verify_possession(proof, text, der)
    for change in (
        {"daemon": "b"},
        {"binding": b"b"},
        {"owner": "bert"},
        {"record": "b"},
        {"version": 2},
        {"nonce": bytes(32)},
    ):
        with pytest.raises(ProofInvalid):
            proofs.verify_possession(proof, possession(kind, **change), der)
    for other in set(SIGNING) - {kind}:
        with pytest.raises(ProofInvalid):
            proofs.verify_possession(proof, text, spki(TRANSACTION[other].public_key()))
    for altered in list(single_byte_changes(proof.value))[:: 3 if kind.startswith("rsa") else 1]:
        with pytest.raises(ProofInvalid):
            proofs.verify_possession(Proof(ProofKind.SIGNATURE, altered), text, der)
    with pytest.raises(ProofInvalid):
        proofs.verify_possession(Proof(ProofKind.SIGNATURE, bytes(100_000)), text, der)


def test_the_hash_of_a_curve_is_that_of_tls() -> None:
    for kind, hash_of_curve in (
        ("p256", hashes.SHA256()),
        ("p384", hashes.SHA384()),
        ("p521", hashes.SHA512()),
    ):
        key, text = TRANSACTION[kind], possession(kind)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        for each in (hashes.SHA256(), hashes.SHA384(), hashes.SHA512()):
            value = key.sign(to_be_signed(Kind.POSSESSION, text), ec.ECDSA(each))
            proof, der = Proof(ProofKind.SIGNATURE, value), spki(key.public_key())
            if each.name == hash_of_curve.name:
                proofs.verify_possession(proof, text, der)
                continue
            with pytest.raises(ProofInvalid):
                proofs.verify_possession(proof, text, der)


def test_rsa_has_two_paddings_and_one_hash() -> None:
    """What tokens do: PKCS #1 v1.5, or PSS with a salt as long as the hash."""
    key, text = TRANSACTION["rsa-2048"], possession("rsa-2048")
    assert isinstance(key, rsa.RSAPrivateKey)
    data, der = to_be_signed(Kind.POSSESSION, text), spki(key.public_key())
    good = [
        key.sign(data, padding.PKCS1v15(), hashes.SHA256()),
        key.sign(data, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256()),
    ]
    bad = [
        key.sign(data, padding.PKCS1v15(), hashes.SHA1()),
        key.sign(data, padding.PKCS1v15(), hashes.SHA512()),
        key.sign(data, padding.PSS(padding.MGF1(hashes.SHA256()), 0), hashes.SHA256()),
    ]
    for value in good:
        proofs.verify_possession(Proof(ProofKind.SIGNATURE, value), text, der)
    for value in bad:
        with pytest.raises(ProofInvalid):
            proofs.verify_possession(Proof(ProofKind.SIGNATURE, value), text, der)


def test_a_signature_of_another_kind_shows_no_possession() -> None:
    key, text = TRANSACTION["p256"], possession("p256")
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    for kind in set(Kind) - {Kind.POSSESSION}:
        with pytest.raises(ProofInvalid):
            proof = Proof(ProofKind.SIGNATURE, sign(key, kind, text))
            proofs.verify_possession(proof, text, spki(key.public_key()))


@pytest.mark.parametrize("kind", OPENING)
def test_a_key_that_opens_proves_that_it_is_there(kind: str) -> None:
    key, text = TRANSACTION[kind], possession(kind)
    assert isinstance(key, PrivateKey)
    der = spki(key.public_key())
    sealed = proofs.seal_possession(SECRET, NONCE, der)
    proof = proofs.answer_possession(proofs.open_possession(sealed, NONCE, key), text)
    proofs.verify_possession(proof, text, der, SECRET)
    assert proof.value == hmac.digest(SECRET, b"hsmd vault possession v1\0" + text, "sha256")
    with pytest.raises(ProofInvalid):
        proofs.verify_possession(proof, possession(kind, version=2), der, SECRET)
    with pytest.raises(ProofInvalid):
        proofs.verify_possession(proof, text, der, os.urandom(32))
    with pytest.raises(ProofInvalid, match="no challenge was sealed"):
        proofs.verify_possession(proof, text, der)
    with pytest.raises(EnvelopeInvalid):
        proofs.open_possession(sealed, bytes(32), key)


def test_a_key_proves_in_the_way_that_it_can() -> None:
    text, signed = possession("x25519"), Proof(ProofKind.SIGNATURE, bytes(64))
    with pytest.raises(ProofInvalid, match="X25519 key signs nothing"):
        proofs.verify_possession(signed, text, spki(TRANSACTION["x25519"].public_key()), SECRET)
    with pytest.raises(EnvelopeInvalid, match="Ed25519 key opens nothing"):
        proofs.seal_possession(SECRET, NONCE, spki(TRANSACTION["ed25519"].public_key()))
    with pytest.raises(EnvelopeInvalid):
        proofs.seal_possession(SECRET, NONCE, spki(TRANSACTION["p384"].public_key()))
    with pytest.raises(EnvelopeInvalid, match="public key"):
        proofs.verify_possession(signed, text, b"no key")
