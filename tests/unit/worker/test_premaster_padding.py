"""Removal of the padding of premaster secrets, with RSA in Python: all malformed plaintexts have the same answer."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, strategies as st

from hsmd.daemon.worker.premaster import PREMASTER_BYTES, Premaster, full_domain_constant

SIZE = 256
DIGEST = bytes(range(32))


class Token:
    """Raw RSA whose plaintext the test chooses; counts its calls."""

    def __init__(self) -> None:
        self.calls: list[bytes] = []
        self.plain: bytes | None = None

    def decrypt(self, block: bytes) -> bytes:
        self.calls.append(block)
        return block if self.plain is None else self.plain


MODULUS = (1 << 2047) + 12345
GOOD = b"\x00\x02" + b"\x01" * (SIZE - 51) + b"\x00\x03\x03" + b"s" * 46
CIPHERTEXT = b"\x11" * SIZE


def decrypted(plain: bytes, ciphertext: bytes = CIPHERTEXT) -> bytes:
    token = Token()
    premaster = Premaster(token.decrypt, MODULUS, DIGEST)
    assert len(token.calls) == 1
    token.plain = plain
    prepared = premaster.prepare(ciphertext)
    answer = premaster.finish(prepared, premaster.use(prepared))
    assert len(token.calls) == 2, "not exactly one call to the token"
    assert len(token.calls[1]) == SIZE
    return answer


MALFORMED = decrypted(bytes(SIZE))
"""The answer to this ciphertext with any malformed plaintext."""


def test_a_good_plaintext_gives_the_secret() -> None:
    assert decrypted(GOOD) == b"\x03\x03" + b"s" * 46


def test_a_token_may_strip_leading_zeros() -> None:
    assert decrypted(GOOD.lstrip(b"\0")) == b"\x03\x03" + b"s" * 46
    assert decrypted(b"") == MALFORMED


@pytest.mark.parametrize("at", range(SIZE - 46))
def test_one_wrong_byte_gives_the_answer_for_malformed_plaintexts(at: int) -> None:
    wrong = 0 if 2 <= at < SIZE - 49 else GOOD[at] ^ 0x55
    assert decrypted(GOOD[:at] + bytes([wrong]) + GOOD[at + 1 :]) == MALFORMED


@given(st.binary(min_size=SIZE, max_size=SIZE))
def test_any_other_plaintext_gives_the_same_answer(plain: bytes) -> None:
    answer = decrypted(plain)
    assert len(answer) == PREMASTER_BYTES
    assert answer == MALFORMED


@pytest.mark.parametrize(
    "ciphertext",
    [
        b"\x11",
        b"\x11" * (SIZE - 1),
        b"\0" + b"\x11" * SIZE,
        MODULUS.to_bytes(SIZE, "big"),
        b"\xff" * SIZE,
        b"\xff" * 1024,
    ],
)
def test_an_invalid_ciphertext_never_gets_the_plaintext(ciphertext: bytes) -> None:
    answer = decrypted(GOOD, ciphertext)
    assert answer[:2] == b"\x03\x03"
    assert answer != decrypted(GOOD)
    assert answer == decrypted(bytes(SIZE), ciphertext)


def test_the_constant_is_below_every_modulus_and_differs_by_key() -> None:
    private = rsa.generate_private_key(65537, 2048)
    modulus = private.public_key().public_numbers().n
    constants = {full_domain_constant(bytes([n]) * 32, SIZE) for n in range(50)}
    assert len(constants) == 50
    for constant in constants:
        assert len(constant) == SIZE
        assert int.from_bytes(constant, "big") < modulus
