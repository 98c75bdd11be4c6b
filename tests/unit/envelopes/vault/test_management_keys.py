"""Management keys: what their statements bind, who signs them, and how one replaces another."""

from __future__ import annotations

import base64
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from hypothesis import given, strategies as st

from hsmd.envelopes import canonical_json, recipients
from hsmd.envelopes.header import Suite
from hsmd.envelopes.recipients import HybridPublicKey, SymmetricKey
from hsmd.envelopes.vault import signing
from hsmd.envelopes.vault.fields import MAX_COUNT, MAX_TEXT_BYTES
from hsmd.envelopes.vault.management_keys import (
    ManagementKeyStatement,
    SignedManagementKey,
    WrappingSuite,
)
from hsmd.errors import EnvelopeInvalid, ProofInvalid
from tests.support.envelopes import rsa_key
from tests.support.mutations import cuts_and_extensions, single_byte_changes
from tests.support.vault_formats import OWNER, Owner, owner, signing_key, spki

SIGNERS = ["p256", "ed25519", "rsa"]


@pytest.mark.parametrize("by", SIGNERS)
@pytest.mark.parametrize("suite", WrappingSuite)
def test_a_statement_comes_back(suite: WrappingSuite, by: str) -> None:
    statement = owner(suite, by).statement
    text = statement.encode()
    assert ManagementKeyStatement.decode(text) == statement
    assert statement.digest == sha256(text).digest()
    assert owner(suite, by).signed().verify_own() == statement


@pytest.mark.parametrize("suite", WrappingSuite)
def test_a_statement_names_what_envelopes_are_sealed_to(suite: WrappingSuite) -> None:
    who = owner(suite)
    assert who.statement.recipient == recipients.digest(who.wrapping.public_key())
    if suite is WrappingSuite.SYMMETRIC:
        assert isinstance(who.wrapping, SymmetricKey)
        assert who.statement.wrapping_key is None
        assert who.wrapping.key.hex().encode() not in who.statement.encode()
        return
    assert who.statement.wrapping_key is not None
    assert recipients.digest(who.statement.wrapping_key) == who.statement.recipient


def test_each_suite_of_envelopes_goes_with_one_kind_of_wrapping_key() -> None:
    assert sorted(suite for of in WrappingSuite for suite in of.suites) == sorted(Suite)


def test_a_fingerprint_is_written_as_that_of_an_ssh_key() -> None:
    statement = owner().statement
    shown = statement.fingerprint
    assert shown == "SHA256:" + base64.b64encode(sha256(statement.encode()).digest()).decode().rstrip("=")
    assert len(shown) == 50


def members(**changes: Any) -> bytes:
    """A statement with other members; a value of None leaves the member out."""
    value = canonical_json.decode(owner().statement.encode())
    assert isinstance(value, dict)
    return canonical_json.encode({name: each for name, each in (value | changes).items() if each is not None})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "hsmd-vault-management-key/2"}, "format"),
        ({"format": "hsmd-vault-record/1"}, "format"),
        ({"format": None}, "format"),
        ({"owner": None}, "members"),
        ({"more": 1}, "members"),
        ({"owner": ""}, "owner"),
        ({"owner": "-anna"}, "owner"),
        ({"owner": "anna\n"}, "owner"),
        ({"owner": "a" * 65}, "owner"),
        ({"owner": "j\u00fcrgen"}, "owner"),
        ({"owner": 7}, "owner"),
        ({"number": 0}, "number"),
        ({"number": True}, "number"),
        ({"number": "1"}, "number"),
        ({"number": MAX_COUNT + 1}, "number"),
        ({"suite": "rsa-oaep"}, "suite"),
        ({"suite": "x25519"}, "wrapping key does not fit"),
        ({"suite": "rsa"}, "wrapping key does not fit"),
        ({"suite": "symmetric"}, "check value"),
        ({"suite": "hybrid"}, "hybrid"),
        ({"wrapping": ""}, "wrapping"),
        ({"wrapping": "AB"}, "wrapping"),
        ({"wrapping": "ab"}, "public key"),
        ({"wrapping": spki(rsa_key(0, 2048).public_key()).hex(), "suite": "rsa"}, "3072"),
        ({"signing": spki(rsa_key(0, 2048).public_key()).hex()}, "signing key"),
        ({"signing": ""}, "signing"),
        ({"previous": "ab"}, "previous"),
        ({"previous": "ab" * 32}, "number 1"),
        ({"stated_at": "2026-02-30T00:00:00Z"}, "stated_at"),
        ({"stated_at": "2026-03-01T12:00:00.000000Z"}, "stated_at"),
        ({"stated_at": "2026-03-01T12:00:00+00:00"}, "stated_at"),
        ({"stated_at": "2026-03-01T12:00:60Z"}, "stated_at"),
        ({"stated_at": "\u0662026-03-01T12:00:00Z"}, "stated_at"),
        ({"stated_at": ""}, "stated_at"),
        ({"stated_at": 1}, "stated_at"),
    ],
)
def test_a_statement_with_other_members_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(EnvelopeInvalid, match=words):
        ManagementKeyStatement.decode(members(**changes))


def test_a_key_has_one_of_the_two_uses() -> None:
    statement = owner().statement
    with pytest.raises(EnvelopeInvalid, match="one of the two uses"):
        replace(statement, signing=statement.wrapping)


@pytest.mark.parametrize("by", SIGNERS)
@pytest.mark.parametrize("suite", [WrappingSuite.P256, WrappingSuite.SYMMETRIC])
def test_every_single_byte_change_is_refused(suite: WrappingSuite, by: str) -> None:
    good = owner(suite, by).signed()
    good.verify_own()
    for altered in single_byte_changes(good.text):
        with pytest.raises((EnvelopeInvalid, ProofInvalid)):
            replace(good, text=altered).verify_own()
    for altered in single_byte_changes(good.signature):
        with pytest.raises(ProofInvalid):
            replace(good, signature=altered).verify_own()


def test_cuts_and_extensions_are_refused() -> None:
    good = owner().signed()
    for altered in cuts_and_extensions(good.text):
        with pytest.raises(EnvelopeInvalid):
            replace(good, text=altered).verify_own()


@given(st.binary(max_size=400))
def test_any_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(EnvelopeInvalid):
        ManagementKeyStatement.decode(data)


def test_the_size_is_bounded_before_anything_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canonical_json, "decode", None)
    with pytest.raises(EnvelopeInvalid, match=f"longer than {MAX_TEXT_BYTES}"):
        ManagementKeyStatement.decode(b"[" * 1_000_000)


def test_the_longest_statement_fits() -> None:
    """Two RSA keys of 8192 bits; numbers that need not be prime, as only their public halves are there."""
    wrapping, sign = (spki(RSAPublicNumbers(65537, 2**8192 - less).public_key()) for less in (1, 3))
    longest = ManagementKeyStatement(
        "a" * 64, MAX_COUNT, WrappingSuite.RSA, wrapping, sign, "ab" * 32, "2026-03-01T12:00:00Z"
    )
    assert len(longest.encode()) < MAX_TEXT_BYTES
    assert ManagementKeyStatement.decode(longest.encode()) == longest


# --- the hybrid key ---


def test_a_hybrid_key_has_one_form() -> None:
    public = owner(WrappingSuite.HYBRID).wrapping.public_key()
    assert isinstance(public, HybridPublicKey)
    der = public.spki()
    again = HybridPublicKey.from_spki(der)
    assert again.spki() == der
    for other in (*cuts_and_extensions(der[:60]), der[:-1], der + b"\0", bytes(len(der))):
        with pytest.raises(EnvelopeInvalid, match="hybrid"):
            HybridPublicKey.from_spki(other)


def test_a_hybrid_key_with_a_hostile_half_is_refused() -> None:
    """Coefficients of ML-KEM are below 3329 (FIPS 203, section 7.2); X25519 as in test_public_keys.py."""
    statement = owner(WrappingSuite.HYBRID).statement
    der = statement.wrapping
    beyond = der[:-1216] + b"\xff" * 1184 + der[-32:]
    with pytest.raises(EnvelopeInvalid, match="ML-KEM"):
        replace(statement, wrapping=beyond)
    for point in (bytes(32), b"\x01" + bytes(31), b"\xff" * 32):
        with pytest.raises(EnvelopeInvalid, match="small order"):
            replace(statement, wrapping=der[:-32] + point)


# --- one replaces another ---


def second(suite: WrappingSuite = WrappingSuite.P256, by: str = "p256") -> Owner:
    return owner(suite, by, 2)


@pytest.mark.parametrize("by", SIGNERS)
@pytest.mark.parametrize("suite", WrappingSuite)
def test_the_key_that_is_replaced_signs_the_succession(suite: WrappingSuite, by: str) -> None:
    old, new = owner(suite, by), second(suite, by)
    assert new.signed(old.signing).verify_succession(old.statement) == new.statement


def test_a_succession_without_the_old_key_is_refused() -> None:
    old, new = owner(), second()
    for wrong in (None, new.signing, signing_key("ed25519", 9)):
        with pytest.raises(ProofInvalid):
            new.signed(wrong).verify_succession(old.statement)
    text = new.statement.encode()
    as_record = signing.sign(old.signing, signing.Kind.RECORD, text)
    with pytest.raises(ProofInvalid):
        replace(new.signed(), succession=as_record).verify_succession(old.statement)


def test_a_succession_does_not_replace_the_own_signature() -> None:
    old, new = owner(), second()
    signed = new.signed(old.signing)
    with pytest.raises(ProofInvalid):
        SignedManagementKey(signed.text, signed.succession, signed.succession).verify_succession(
            old.statement
        )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"owner": "bert"}, "owner"),
        ({"number": 3}, "number is not 2"),
        ({"number": 1, "previous": ""}, "number is not 2"),
        ({"previous": ""}, "previous"),
        ({"previous": "ab" * 32}, "previous"),
        ({"stated_at": "2026-02-28T12:00:00Z"}, "stated_at"),
        ({"wrapping": owner().statement.wrapping}, "make new ones"),
        ({"wrapping": owner().statement.signing}, "make new ones"),
    ],
)
def test_a_statement_that_does_not_continue_the_one_before_is_refused(
    changes: dict[str, Any], words: str
) -> None:
    old, new = owner(), second()
    other = Owner(new.wrapping, new.signing, replace(new.statement, **changes))
    with pytest.raises(EnvelopeInvalid, match=words):
        other.signed(old.signing).verify_succession(old.statement)


def test_a_signing_key_is_not_used_again() -> None:
    old, new = owner(), second()
    other = Owner(new.wrapping, old.signing, replace(new.statement, signing=old.statement.signing))
    with pytest.raises(EnvelopeInvalid, match="make new ones"):
        other.signed(old.signing).verify_succession(old.statement)


def test_a_restart_has_a_number_and_no_succession() -> None:
    """After a loss an operator confirms it; its statement is valid by itself."""
    restart = Owner(second().wrapping, second().signing, replace(second().statement, previous=""))
    assert restart.signed().verify_own().number == 2
    assert second().signed().verify_own().owner == OWNER


def test_nothing_of_a_symmetric_key_is_in_a_representation() -> None:
    key = SymmetricKey(bytes(range(32)))
    assert bytes(range(32)).hex() not in repr(key) + str(key)
    assert repr(bytes(range(32))) not in repr(key)
