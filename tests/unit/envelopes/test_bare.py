"""Bare wrapped keys: what other software takes from an envelope, and what it brings."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from hsmd.envelopes import rsa_aes_kwp
from hsmd.envelopes.bare import bare_of, open_bare
from hsmd.envelopes.envelope import MAX_ENVELOPE_BYTES, Envelope
from hsmd.envelopes.header import Kind, Suite
from hsmd.errors import EnvelopeInvalid
from tests.support.envelopes import RSA_SUITES, contents, rsa_key, sealed, sealed_secret
from tests.support.mutations import cuts_and_extensions, single_byte_changes

SUITE = Suite.RSA_OAEP_SHA256_KWP
SECRET = bytes(range(32))


def wrapped(content: bytes, aes_key: bytes = bytes(32), suite: Suite = SUITE) -> bytes:
    """What other software makes."""
    oaep = rsa_aes_kwp.oaep_encrypt(rsa_key().public_key(), suite, aes_key)
    return oaep + rsa_aes_kwp.kwp_wrap(aes_key, content)


@pytest.mark.parametrize("name", list(contents()))
@pytest.mark.parametrize("suite", RSA_SUITES)
def test_an_envelope_contains_one(suite: Suite, name: str) -> None:
    bare = bare_of(sealed(suite, name))
    assert sealed(suite, name).body.startswith(bare)
    assert open_bare(bare, rsa_key(), suite, Kind.PRIVATE_KEY) == contents()[name]
    assert open_bare(bare_of(sealed_secret(suite, SECRET)), rsa_key(), suite, Kind.SECRET_KEY) == SECRET


@pytest.mark.parametrize("suite", sorted(set(Suite) - set(RSA_SUITES)))
def test_envelopes_of_other_suites_contain_none(suite: Suite) -> None:
    with pytest.raises(EnvelopeInvalid, match="RSA suite"):
        bare_of(sealed(suite))
    with pytest.raises(EnvelopeInvalid, match="suite"):
        open_bare(bytes(300), rsa_key(), suite, Kind.PRIVATE_KEY)
    with pytest.raises(EnvelopeInvalid):
        bare_of(Envelope(sealed(SUITE).header, bytes(40)))


@pytest.mark.parametrize("suite", RSA_SUITES)
def test_every_single_byte_change_is_refused(suite: Suite) -> None:
    bare = wrapped(SECRET, suite=suite)
    for altered in list(single_byte_changes(bare))[::3]:
        with pytest.raises(EnvelopeInvalid) as caught:
            open_bare(altered, rsa_key(), suite, Kind.SECRET_KEY)
        assert caught.value.text == EnvelopeInvalid.default_text


def test_cuts_and_extensions_are_refused() -> None:
    for altered in cuts_and_extensions(wrapped(SECRET)):
        with pytest.raises(EnvelopeInvalid):
            open_bare(altered, rsa_key(), SUITE, Kind.SECRET_KEY)


@pytest.mark.parametrize("length", [16, 24])
def test_another_aes_is_refused(length: int) -> None:
    with pytest.raises(EnvelopeInvalid):
        open_bare(wrapped(SECRET, bytes(length)), rsa_key(), SUITE, Kind.SECRET_KEY)


def test_the_kind_is_what_was_said() -> None:
    private, secret = wrapped(contents()["P-256"]), wrapped(SECRET)
    for data, kind in (
        (private, Kind.SECRET_KEY),
        (secret, Kind.PRIVATE_KEY),
        (wrapped(bytes(15)), Kind.SECRET_KEY),
    ):
        with pytest.raises(EnvelopeInvalid):
            open_bare(data, rsa_key(), SUITE, kind)


def test_the_padding_of_a_token_is_removed() -> None:
    key = contents()["P-256"]
    assert open_bare(wrapped(key + bytes(5)), rsa_key(), SUITE, Kind.PRIVATE_KEY) == key
    with pytest.raises(EnvelopeInvalid):
        open_bare(wrapped(key + bytes(8)), rsa_key(), SUITE, Kind.PRIVATE_KEY)


def test_the_hash_of_oaep_is_not_guessed() -> None:
    for suite in RSA_SUITES:
        other = next(each for each in RSA_SUITES if each is not suite)
        with pytest.raises(EnvelopeInvalid):
            open_bare(wrapped(SECRET, suite=suite), rsa_key(), other, Kind.SECRET_KEY)


def test_the_size_is_bounded() -> None:
    with pytest.raises(EnvelopeInvalid, match="not a key wrapped"):
        open_bare(bytes(MAX_ENVELOPE_BYTES + 8), rsa_key(), SUITE, Kind.SECRET_KEY)


@given(st.binary(max_size=400))
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(EnvelopeInvalid):
        open_bare(data, rsa_key(), SUITE, Kind.PRIVATE_KEY)
