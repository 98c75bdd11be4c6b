"""Taking off the padding of premaster secrets, with RSA made in Python: no ciphertext makes a difference but a good one."""

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


def opened(plain: bytes, ciphertext: bytes = CIPHERTEXT) -> bytes:
    token = Token()
    premaster = Premaster(token.decrypt, MODULUS, DIGEST)
    assert len(token.calls) == 1
    token.plain = plain
    prepared = premaster.prepare(ciphertext)
    answer = premaster.finish(prepared, premaster.use(prepared))
    assert len(token.calls) == 2, "not exactly one call to the token"
    assert len(token.calls[1]) == SIZE
    return answer


MALFORMED = opened(bytes(SIZE))
"""What this ciphertext gets, whatever is wrong with its plaintext."""


def test_good() -> None:
    assert opened(GOOD) == b"\x03\x03" + b"s" * 46


def test_a_token_that_strips_leading_zeros() -> None:
    assert opened(GOOD.lstrip(b"\0")) == b"\x03\x03" + b"s" * 46
    assert opened(b"") == MALFORMED


@pytest.mark.parametrize("at", range(SIZE - 46))
def test_one_wrong_byte_anywhere(at: int) -> None:
    wrong = 0 if 2 <= at < SIZE - 49 else GOOD[at] ^ 0x55
    assert opened(GOOD[:at] + bytes([wrong]) + GOOD[at + 1 :]) == MALFORMED


@given(st.binary(min_size=SIZE, max_size=SIZE))
def test_any_plaintext(plain: bytes) -> None:
    answer = opened(plain)
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
def test_what_is_no_ciphertext_for_the_key_never_gets_the_plaintext(ciphertext: bytes) -> None:
    answer = opened(GOOD, ciphertext)
    assert answer[:2] == b"\x03\x03"
    assert answer != opened(GOOD)
    assert answer == opened(bytes(SIZE), ciphertext)


def test_the_constant_is_below_every_modulus_and_differs_by_key() -> None:
    private = rsa.generate_private_key(65537, 2048)
    modulus = private.public_key().public_numbers().n
    constants = {full_domain_constant(bytes([n]) * 32, SIZE) for n in range(50)}
    assert len(constants) == 50
    for constant in constants:
        assert len(constant) == SIZE
        assert int.from_bytes(constant, "big") < modulus
