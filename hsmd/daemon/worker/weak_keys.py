"""Private keys that others could find: checks of the numbers of a key that was made elsewhere. Pure.

An honest key fails one of them with a probability below 2 to the -60th, except for the small public exponent, which its maker
chose. Keys of the Debian random number generator (CVE-2008-0166) are not recognised: that takes large lists.
"""

from __future__ import annotations

from itertools import groupby, pairwise
from math import gcd

_SMALLEST_USUAL_EXPONENT = 65_537
_LARGEST_EXPONENT_BITS = 256
"""FIPS 186-5, appendix A.1.1: the public exponent is between 2^16 and 2^256."""
_CLOSE_BITS = 100
"""FIPS 186-5, appendix A.1.3: the primes differ in their first 100 bits."""
_MISSING_BITS = 64
_CRT_BITS = 160
_COMMON_FACTOR_BITS = 64
_RUN = 10
"""Equal bytes in a row that a random number does not have."""
_ROCA_PRIMES = (
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113, 127,
    131, 137, 139, 149, 151, 157, 163, 167,
)  # fmt: skip
"""Primes modulo which both factors of such a key are powers of 65537 (CVE-2017-15361)."""
_SMOOTH_BOUND = 1 << 16


def rsa_weaknesses(p: int, q: int, e: int, d: int) -> list[str]:
    """Why an RSA key is weak; empty if nothing is known against it. The numbers fit each other."""
    n = p * q
    bits = n.bit_length()
    found = []
    if e < _SMALLEST_USUAL_EXPONENT:
        found.append(f"its public exponent is small ({e})")
    if e.bit_length() > _LARGEST_EXPONENT_BITS:
        found.append(f"its public exponent has more than {_LARGEST_EXPONENT_BITS} bits")
    if abs(p - q).bit_length() <= bits // 2 - _CLOSE_BITS:
        found.append("its primes are close to each other, so that Fermat's method finds them")
    if min(p, q).bit_length() < bits // 2 - _CLOSE_BITS:
        found.append("one of its primes is much shorter than the other")
    if d.bit_length() <= bits // 2:
        found.append("its private exponent is small, so that Wiener's method finds it")
    if min(d % (p - 1), d % (q - 1)).bit_length() <= _CRT_BITS:
        found.append("one of its CRT exponents is small")
    if gcd(p - 1, q - 1).bit_length() > _COMMON_FACTOR_BITS:
        found.append("its primes minus one share a large factor")
    if _is_roca(n):
        found.append("it was made by a chip whose keys can be factored (ROCA, CVE-2017-15361)")
    if _is_smooth(p - 1) or _is_smooth(q - 1):
        found.append("a prime minus one has small factors only, so that Pollard's method finds it")
    if any(_has_pattern(number.to_bytes((number.bit_length() + 7) // 8)) for number in (p, q)):
        found.append("a prime has a pattern and is not random")
    return found


def ec_weaknesses(d: int, order: int) -> list[str]:
    """Why an EC key with the private value `d` is weak; empty if nothing is known against it."""
    found = []
    if min(d, order - d).bit_length() <= order.bit_length() - _MISSING_BITS:
        found.append("its private value is small")
    if _has_pattern(d.to_bytes((order.bit_length() + 7) // 8)):
        found.append("its private value has a pattern and is not random")
    return found


def seed_weaknesses(seed: bytes) -> list[str]:
    """Why an Ed25519 key with this seed is weak; empty if nothing is known against it."""
    return ["its seed has a pattern and is not random"] if _has_pattern(seed) else []


def _is_roca(n: int) -> bool:
    return all(n % prime in _powers_of_generator(prime) for prime in _ROCA_PRIMES)


def _powers_of_generator(prime: int) -> set[int]:
    powers, power = set(), 1
    while power not in powers:
        powers.add(power)
        power = power * 65_537 % prime
    return powers


def _is_smooth(number: int) -> bool:
    """Whether all prime factors are small. A power of two times a large number is not."""
    rest, factor = number, 2
    while factor < _SMOOTH_BOUND and rest > 1:
        while rest % factor == 0:
            rest //= factor
        factor += 1 if factor == 2 else 2
    return rest == 1


def _has_pattern(number: bytes) -> bool:
    """Equal bytes in a row, one period repeated, or bytes in order."""
    if any(len(list(run)) >= _RUN for _, run in groupby(number)):
        return True
    if any(number[period:] == number[:-period] for period in range(1, len(number) // 2 + 1)):
        return True
    steps = {(after - before) % 256 for before, after in pairwise(number)}
    return len(steps) == 1
