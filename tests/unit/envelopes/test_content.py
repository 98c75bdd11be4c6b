"""Private keys that a hostile sender makes: halves that do not belong together, and keys that take long to check."""

from __future__ import annotations

from functools import cache

import pytest
from asn1crypto.keys import PrivateKeyInfo, RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, mldsa, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, strategies as st

from hsmd.envelopes.content import spki_digest
from hsmd.envelopes.recipients import digest
from tests.support.envelopes import contents, pkcs8, rsa_key

E = 65537


@cache
def numbers() -> dict[str, int]:
    private = rsa_key().private_numbers()
    return {
        "modulus": private.public_numbers.n,
        "public_exponent": private.public_numbers.e,
        "private_exponent": private.d,
        "prime1": private.p,
        "prime2": private.q,
        "exponent1": private.dmp1,
        "exponent2": private.dmq1,
        "coefficient": private.iqmp,
    }


def rsa_of(values: dict[str, int]) -> bytes:
    return PrivateKeyInfo.wrap(RSAPrivateKey({"version": 0} | values), "rsa").dump()


def rsa_of_factors(p: int, q: int) -> bytes:
    """Numbers that belong together, for two factors that need not be prime."""
    d = pow(E, -1, (p - 1) * (q - 1))
    return rsa_of(
        {
            "modulus": p * q, "public_exponent": E, "private_exponent": d, "prime1": p, "prime2": q,
            "exponent1": d % (p - 1), "exponent2": d % (q - 1), "coefficient": pow(q, -1, p),
        }
    )  # fmt: skip


@pytest.mark.parametrize("key", [rsa_key(), ec.generate_private_key(ec.SECP521R1()), ed25519.Ed25519PrivateKey.generate(), x25519.X25519PrivateKey.generate()], ids=["RSA", "EC", "Ed25519", "X25519"])  # fmt: skip
def test_the_digest_is_that_of_the_public_half(key: rsa.RSAPrivateKey) -> None:
    assert spki_digest(pkcs8(key)) == digest(key.public_key())


@pytest.mark.parametrize("name", ["modulus", "public_exponent", "private_exponent", "prime1", "prime2", "exponent1", "exponent2", "coefficient"])  # fmt: skip
@pytest.mark.parametrize("change", [1, 2, -2])
def test_each_number_of_an_rsa_key_is_checked(name: str, change: int) -> None:
    assert spki_digest(rsa_of(numbers())) is not None
    assert spki_digest(rsa_of(numbers() | {name: numbers()[name] + change})) is None


def test_the_public_half_of_one_rsa_key_does_not_go_with_the_private_half_of_another() -> None:
    other = rsa_key(1).private_numbers().public_numbers.n
    assert spki_digest(rsa_of(numbers() | {"modulus": other})) is None


def test_factors_of_another_modulus_are_refused() -> None:
    """OpenSSL notices that they are of no use and signs without them, so that its signature verifies; a token does not."""
    d, (p, q) = numbers()["private_exponent"], (rsa_key(number).private_numbers().p for number in (2, 3))
    changes = {
        "prime1": p,
        "prime2": q,
        "exponent1": d % (p - 1),
        "exponent2": d % (q - 1),
        "coefficient": pow(q, -1, p),
    }
    assert spki_digest(rsa_of(numbers() | changes)) is None


def test_factors_that_are_not_prime_are_refused() -> None:
    """All numbers fit, but what the key signs does not verify."""
    small = [rsa_key(number).private_numbers().p for number in (2, 3)]
    composite = small[0] * 3 * 5 * 7
    assert spki_digest(rsa_of_factors(composite, small[1])) is None
    assert spki_digest(rsa_of_factors(*small)) is not None


def test_an_rsa_key_that_takes_long_to_check_is_refused() -> None:
    """Mersenne primes make a valid key of 8676 bits. The primality tests of the library take 20 s for it."""
    assert spki_digest(rsa_of_factors((1 << 4423) - 1, (1 << 4253) - 1)) is None


def test_an_even_modulus_is_refused() -> None:
    assert spki_digest(rsa_of_factors(numbers()["prime1"], 4)) is None
    assert spki_digest(rsa_of_factors(4, numbers()["prime1"])) is None
    assert spki_digest(rsa_of(numbers() | {"modulus": numbers()["prime1"] * 4, "prime2": 4})) is None
    assert spki_digest(rsa_of(dict.fromkeys(numbers(), 0))) is None
    assert spki_digest(rsa_of(dict.fromkeys(numbers(), 1))) is None


def test_the_public_half_of_one_ec_key_does_not_go_with_the_private_half_of_another() -> None:
    one, two = (pkcs8(ec.generate_private_key(ec.SECP256R1())) for _ in range(2))
    assert one[-65] == two[-65] == 4
    assert spki_digest(one[:-65] + two[-65:]) is None


@pytest.mark.parametrize("key", [dsa.generate_private_key(1024), ed448.Ed448PrivateKey.generate(), mldsa.MLDSA65PrivateKey.generate()], ids=["DSA", "Ed448", "ML-DSA"])  # fmt: skip
def test_other_kinds_of_keys_are_refused(key: ed448.Ed448PrivateKey) -> None:
    assert spki_digest(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())) is None


@given(st.sampled_from(sorted(contents())), st.data())
def test_a_changed_private_key_is_refused_or_is_another_one(name: str, data: st.DataObject) -> None:
    good = contents()[name]
    position = data.draw(st.integers(0, len(good) - 1))
    changed = bytearray(good)
    changed[position] ^= data.draw(st.integers(1, 255))
    found = spki_digest(bytes(changed))
    assert found is None or len(found) == 32
