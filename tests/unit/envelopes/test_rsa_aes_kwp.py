"""The RSA suites: parts for a token, the check of a tag by HMAC, the padding that SoftHSM leaves behind a key."""

from __future__ import annotations

import hmac

import pytest
from hypothesis import given, strategies as st

from hsmd.envelopes import content, recipients, rsa_aes_kwp
from hsmd.envelopes.envelope import Envelope
from hsmd.envelopes.header import Header, Kind, Suite
from hsmd.envelopes.sealing import open_envelope
from hsmd.errors import EnvelopeInvalid
from tests.support.envelopes import ABOUT, RSA_SUITES, contents, rsa_key, sealed

SUITE = Suite.RSA_OAEP_SHA1_KWP


@pytest.mark.parametrize("suite", RSA_SUITES)
def test_the_first_two_parts_are_those_of_ckm_rsa_aes_key_wrap(suite: Suite) -> None:
    parts = rsa_aes_kwp.split(sealed(suite), rsa_key().public_key())
    assert sealed(suite).body == parts.oaep + parts.kwp + parts.tag
    assert len(parts.oaep) == 256
    aes_key = rsa_aes_kwp.oaep_decrypt(rsa_key(), suite, parts.oaep)
    assert len(aes_key) == 32
    assert rsa_aes_kwp.kwp_unwrap(aes_key, parts.kwp) == contents()["P-256"]
    assert rsa_aes_kwp.kwp_unwrap(aes_key, parts.tag) == parts.digest


def test_parts_of_another_suite_or_to_another_key_are_refused() -> None:
    with pytest.raises(EnvelopeInvalid, match="not to this one"):
        rsa_aes_kwp.split(sealed(SUITE), rsa_key(1).public_key())
    with pytest.raises(EnvelopeInvalid, match="suite"):
        rsa_aes_kwp.split(sealed(Suite.HPKE_P256), rsa_key().public_key())


def test_a_body_that_cannot_be_cut_is_refused() -> None:
    """A token gets no part whose length is not possible."""
    envelope, key = sealed(SUITE), rsa_key().public_key()
    for change in (b"", bytes(1), bytes(256 + 15 + 40), envelope.body + bytes(1), envelope.body[:-4], envelope.body[:256 + 40]):  # fmt: skip
        with pytest.raises(EnvelopeInvalid, match="length of its parts"):
            rsa_aes_kwp.split(Envelope(envelope.header, change), key)


def test_a_token_checks_the_tag_by_an_hmac() -> None:
    parts = rsa_aes_kwp.split(sealed(SUITE), rsa_key().public_key())
    parts.check_mac(hmac.digest(parts.digest, rsa_aes_kwp.MAC_MESSAGE, "sha256"))
    for wrong in (bytes(32), b"", hmac.digest(bytes(32), rsa_aes_kwp.MAC_MESSAGE, "sha256"), hmac.digest(parts.digest, b"", "sha256")):  # fmt: skip
        with pytest.raises(EnvelopeInvalid) as caught:
            parts.check_mac(wrong)
        assert caught.value.text == EnvelopeInvalid.default_text
    assert parts.digest.hex() not in repr(parts)


def padded(pkcs8: bytes, zeros: int, then: bytes = b"") -> bytes:
    """What opening gives of an envelope whose sender padded the key before KWP."""
    spki = content.spki_digest(pkcs8)
    assert spki is not None
    key = rsa_key().public_key()
    header = Header(SUITE, Kind.PRIVATE_KEY, recipients.digest(key), spki, ABOUT)
    return open_envelope(rsa_aes_kwp.seal(header, pkcs8 + bytes(zeros) + then, key), rsa_key())


@pytest.mark.parametrize("name", list(contents()))
def test_the_padding_of_a_token_is_removed(name: str) -> None:
    """SoftHSM 2.6.1 fills a private key with zeros to a multiple of 8 bytes, and wraps that."""
    pkcs8 = contents()[name]
    for zeros in range(8):
        assert padded(pkcs8, zeros) == pkcs8


@pytest.mark.parametrize(
    ("zeros", "then"), [(8, b""), (16, b""), (0, b"\1"), (3, b"\1"), (6, b"\x80"), (0, b"0\0")]
)
def test_nothing_but_the_padding_of_a_token_is_removed(zeros: int, then: bytes) -> None:
    with pytest.raises(EnvelopeInvalid) as caught:
        padded(contents()["P-256"], zeros, then)
    assert caught.value.text == EnvelopeInvalid.default_text


@given(st.binary(max_size=300))
def test_any_content_has_an_end_or_is_refused(data: bytes) -> None:
    try:
        key = content.without_token_padding(data)
    except EnvelopeInvalid:
        return
    assert data.startswith(key)
    assert data.rstrip(b"\0") == key.rstrip(b"\0")
    assert len(data) - len(key) <= content.MAX_TOKEN_PADDING


@given(st.binary(min_size=1, max_size=200))
def test_kwp_brings_every_length_back(data: bytes) -> None:
    wrapped = rsa_aes_kwp.kwp_wrap(bytes(32), data)
    assert rsa_aes_kwp.kwp_unwrap(bytes(32), wrapped) == data
    assert len(wrapped) == 8 + -(-len(data) // 8) * 8


@given(st.binary(max_size=200))
def test_kwp_of_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(EnvelopeInvalid):
        rsa_aes_kwp.kwp_unwrap(bytes(32), data)
