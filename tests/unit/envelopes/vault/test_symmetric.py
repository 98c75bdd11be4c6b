"""Symmetric keys: the suite aes256-kwp, part by part, and the values that stand for keys."""

from __future__ import annotations

import hmac
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding, aes_key_wrap_with_padding

from hsmd.envelopes import aes_kwp
from hsmd.envelopes.envelope import Envelope
from hsmd.envelopes.header import Kind, Suite
from hsmd.envelopes.recipients import SymmetricKey
from hsmd.envelopes.rsa_aes_kwp import MAC_MESSAGE, join
from hsmd.envelopes.sealing import open_envelope, seal_secret_key
from hsmd.envelopes.vault.symmetric import key_check
from hsmd.errors import EnvelopeInvalid
from tests.support.envelopes import ABOUT, contents, recipient, sealed, sealed_secret

SUITE = Suite.AES256_KWP
SECRET = bytes(range(32))


def key(number: int = 0) -> SymmetricKey:
    found = recipient(SUITE, number)
    assert isinstance(found, SymmetricKey)
    return found


def test_a_stranger_opens_ours() -> None:
    """With nothing but AES-KWP and SHA-256, from docs/envelopes.md."""
    envelope = sealed(SUITE).encode()
    end = 2 + int.from_bytes(envelope[:2], "big")
    body = envelope[end:]
    one_time = aes_key_unwrap_with_padding(key().key, body[:40])
    assert len(one_time) == 32
    assert aes_key_unwrap_with_padding(one_time, body[40:-40]) == contents()["P-256"]
    assert aes_key_unwrap_with_padding(one_time, body[-40:]) == sha256(envelope[:-40]).digest()
    check = sha256(b"hsmd vault symmetric v1\0" + hmac.digest(key().key, b"check", "sha256")).hexdigest()
    assert f'"recipient":"{check}"'.encode() in envelope[:end]


def test_we_open_a_strangers() -> None:
    header = sealed_secret(SUITE, SECRET).header.encode()
    one_time = bytes(range(32, 64))
    front = len(header).to_bytes(2, "big") + header + aes_key_wrap_with_padding(key().key, one_time)
    front += aes_key_wrap_with_padding(one_time, SECRET)
    tag = aes_key_wrap_with_padding(one_time, sha256(front).digest())
    assert open_envelope(Envelope.decode(front + tag), key()) == SECRET


@pytest.mark.parametrize("length", [16, 24])
def test_a_shorter_one_time_key_is_refused(length: int) -> None:
    """A sender who is not ours; no reader of ours falls back to another AES."""
    header = sealed_secret(SUITE, SECRET).header
    one_time = bytes(length)
    wrapped, kwp = aes_key_wrap_with_padding(key().key, one_time), aes_key_wrap_with_padding(one_time, SECRET)
    front = len(header.encode()).to_bytes(2, "big") + header.encode() + wrapped + kwp
    tag = aes_key_wrap_with_padding(one_time, sha256(front).digest())
    with pytest.raises(EnvelopeInvalid):
        open_envelope(Envelope(header, wrapped + kwp + tag), key())


def test_a_token_gets_parts_and_checks_the_tag_by_an_hmac() -> None:
    for to in (key(), key().check_value):
        parts = aes_kwp.split(sealed(SUITE), to)
        assert parts.oaep + parts.kwp + parts.tag == sealed(SUITE).body
        parts.check_mac(hmac.digest(parts.digest, MAC_MESSAGE, "sha256"))
        with pytest.raises(EnvelopeInvalid):
            parts.check_mac(bytes(32))


def test_a_body_that_cannot_be_cut_is_refused() -> None:
    envelope = sealed(SUITE)
    for change in (
        bytes(1),
        bytes(40 + 8 + 40),
        bytes(40 + 17 + 40),
        envelope.body + bytes(1),
        envelope.body[:-4],
    ):
        with pytest.raises(EnvelopeInvalid, match="length of its parts"):
            aes_kwp.split(Envelope(envelope.header, change), key())


def test_parts_are_not_exchanged() -> None:
    one, two = sealed_secret(SUITE, SECRET), sealed_secret(SUITE, bytes(32))
    a, b = (aes_kwp.split(each, key()) for each in (one, two))
    mixtures = [
        (b.oaep, a.kwp, a.tag), (a.oaep, b.kwp, a.tag), (a.oaep, a.kwp, b.tag), (b.oaep, b.kwp, a.tag),
        (a.oaep, b.kwp, b.tag), (b.oaep, a.kwp, b.tag), (a.oaep, a.tag, a.kwp), (a.oaep, a.kwp, a.kwp),
        (a.kwp, a.oaep, a.tag), (a.tag, a.kwp, a.oaep),
    ]  # fmt: skip
    for parts in mixtures:
        with pytest.raises(EnvelopeInvalid):
            open_envelope(join(one.header, *parts), key())
    assert open_envelope(join(one.header, a.oaep, a.kwp, a.tag), key()) == SECRET


def test_the_tag_is_not_taken_for_the_key() -> None:
    """It contains 32 bytes that everyone can compute; as the key of an envelope they would be no secret."""
    envelope = sealed_secret(SUITE, SECRET)
    parts = aes_kwp.split(envelope, key())
    with pytest.raises(EnvelopeInvalid):
        open_envelope(join(envelope.header, parts.oaep, parts.tag, parts.tag), key())


def test_keys_of_other_kinds_are_refused() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(EnvelopeInvalid, match="takes a symmetric key"):
        seal_secret_key(SECRET, other.public_key(), SUITE, ABOUT)
    with pytest.raises(EnvelopeInvalid, match="takes a symmetric key"):
        open_envelope(sealed(SUITE), other)
    with pytest.raises(EnvelopeInvalid, match="does not open envelopes of the suite"):
        aes_kwp.split(sealed(Suite.HPKE_P256), key())
    for suite in set(Suite) - {SUITE}:
        with pytest.raises(EnvelopeInvalid):
            seal_secret_key(SECRET, key(), suite, ABOUT)
        with pytest.raises(EnvelopeInvalid):
            open_envelope(sealed(suite), key())


@pytest.mark.parametrize("length", [0, 16, 24, 31, 33, 64])
def test_a_symmetric_management_key_is_an_aes_256_key(length: int) -> None:
    with pytest.raises(EnvelopeInvalid, match="32 bytes"):
        SymmetricKey(bytes(length))


# --- values that stand for keys ---


def test_a_check_value_has_the_documented_form() -> None:
    expected = sha256(b"hsmd vault key check v1\0" + hmac.digest(SECRET, b"check", "sha256")).hexdigest()
    assert key_check(SECRET) == expected
    assert SymmetricKey(SECRET).check_value.hex() != expected


@pytest.mark.parametrize("length", [0, 1, 8, 15])
def test_a_key_that_can_be_guessed_has_no_check_value(length: int) -> None:
    with pytest.raises(EnvelopeInvalid, match="128 bits"):
        key_check(bytes(length))
    assert len(key_check(bytes(16))) == 64


def test_a_symmetric_key_is_no_header_member() -> None:
    """The digest of a sealed symmetric key stands nowhere; its check value stands in the owner's statement only."""
    header = sealed_secret(SUITE, SECRET).header
    assert header.kind is Kind.SECRET_KEY
    assert key_check(SECRET).encode() not in header.encode()
    assert sha256(SECRET).hexdigest().encode() not in header.encode()
