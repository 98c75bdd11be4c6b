"""Private keys in files: what is encrypted decrypts with the passphrase only, and hostile parameters are bounded."""

from __future__ import annotations

import msgspec
import pytest

from hsmd.errors import BadRequest
from hsmd.holder import file_encryption
from hsmd.holder.file_encryption import PassphraseRefused, Sealed, decrypt, encrypt

CHEAP = 1 << 14
ABOUT = b"about"
WORD = b"correct horse"


@pytest.fixture(scope="module")
def sealed() -> Sealed:
    return encrypt(b"secret content", WORD, ABOUT, CHEAP)


def test_round_trip(sealed: Sealed) -> None:
    again = msgspec.json.decode(msgspec.json.encode(sealed), type=Sealed)
    assert decrypt(again, WORD, ABOUT) == b"secret content"
    assert b"secret" not in sealed.data


@pytest.mark.parametrize(
    ("word", "about"), [(WORD.upper(), ABOUT), (b"", ABOUT), (WORD, b"other"), (b"w" * 2_000, ABOUT)]
)
def test_another_passphrase_or_subject_is_refused(sealed: Sealed, word: bytes, about: bytes) -> None:
    with pytest.raises(PassphraseRefused, match="the passphrase does not open the file"):
        decrypt(sealed, word, about)


@pytest.mark.parametrize("member", ["salt", "nonce", "data"])
def test_altered_members_are_refused(sealed: Sealed, member: str) -> None:
    value = bytearray(getattr(sealed, member))
    value[0] ^= 1
    with pytest.raises(PassphraseRefused):
        decrypt(msgspec.structs.replace(sealed, **{member: bytes(value)}), WORD, ABOUT)


@pytest.mark.parametrize("cost", [0, 1, 1 << 13, (1 << 14) + 1, 1 << 21, 1 << 40, -1])
def test_parameters_that_no_release_writes_are_refused_before_the_work(
    sealed: Sealed, cost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_encryption, "_key", lambda *_: pytest.fail("worked"))
    with pytest.raises(BadRequest, match="unknown amount of work"):
        decrypt(msgspec.structs.replace(sealed, cost=cost), WORD, ABOUT)


@pytest.mark.parametrize(
    ("word", "words"),
    [
        (b"", "at least 8 characters"),
        (b"1234567", "at least 8 characters"),
        ("\N{CHECK MARK}".encode() * 7, "at least 8 characters"),
        (b"w" * 1_025, "at most 1024 bytes"),
    ],
)
def test_passphrases_of_new_files_are_bounded(word: bytes, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        encrypt(b"", word, ABOUT, CHEAP)


def test_eight_characters_are_enough() -> None:
    for word in (b"12345678", "\N{CHECK MARK}".encode() * 8, b"\xff" * 8):
        assert decrypt(encrypt(b"content", word, ABOUT, CHEAP), word, ABOUT) == b"content"


def test_a_file_of_an_earlier_release_with_a_short_passphrase_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(file_encryption, "MIN_PASSPHRASE", 1)
        old = encrypt(b"content", b"w", ABOUT, CHEAP)
    assert decrypt(old, b"w", ABOUT) == b"content"
