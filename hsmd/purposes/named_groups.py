"""The elliptic-curve groups of TLS 1.2 key exchange, and the check that bytes are a public point of one.

Numbers: RFC 8422, section 5.1.1. Validation of points: section 5.11. Curves: SP 800-186 and RFC 7748.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

NAMED_CURVE = 3
"""ECCurveType named_curve; explicit curves must not be used (RFC 8422, section 5.4)."""
_UNCOMPRESSED = 4


@dataclass(frozen=True, slots=True)
class NamedGroup:
    """One group.

    `prefix` precedes a point in ServerECDHParams: curve type, named curve, point length. `fault` takes a point of the right
    length and returns what is wrong with it, empty if nothing is.
    """

    name: str
    prefix: bytes
    point_bytes: int
    fault: Callable[[bytes], str]


def _montgomery(name: str, code: int, prime: int, other_low_order: tuple[int, ...] = ()) -> NamedGroup:
    """X25519 or X448: any bytes except points of small order, which make the secret zero (RFC 7748, section 6)."""
    size = (prime.bit_length() + 7) // 8
    mask = (1 << prime.bit_length()) - 1
    low_order = frozenset({0, 1, prime - 1, prime, prime + 1, *other_low_order})

    def fault(point: bytes) -> str:
        # Receivers ignore the unused top bit (RFC 7748, section 5), so it is ignored here too.
        return "is of small order" if int.from_bytes(point, "little") & mask in low_order else ""

    return _group(name, code, size, fault)


def _weierstrass(name: str, code: int, prime: int, b: int) -> NamedGroup:
    """A NIST curve y^2 = x^3 - 3x + b: uncompressed points that are on the curve."""
    size = (prime.bit_length() + 7) // 8

    def fault(point: bytes) -> str:
        if point[0] != _UNCOMPRESSED:
            return "is not in uncompressed form"
        x = int.from_bytes(point[1 : 1 + size])
        y = int.from_bytes(point[1 + size :])
        if x >= prime or y >= prime:
            return "has a coordinate outside the field"
        return "" if ((x * x - 3) * x + b - y * y) % prime == 0 else "is not on the curve"

    return _group(name, code, 1 + 2 * size, fault)


def _group(name: str, code: int, point_bytes: int, fault: Callable[[bytes], str]) -> NamedGroup:
    prefix = bytes([NAMED_CURVE]) + code.to_bytes(2) + bytes([point_bytes])
    return NamedGroup(name, prefix, point_bytes, fault)


NAMED_GROUPS = (
    _weierstrass(
        "secp256r1",
        23,
        2**256 - 2**224 + 2**192 + 2**96 - 1,
        0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
    ),
    _weierstrass(
        "secp384r1",
        24,
        2**384 - 2**128 - 2**96 + 2**32 - 1,
        0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF,
    ),
    _weierstrass(
        "secp521r1",
        25,
        2**521 - 1,
        0x51953EB9618E1C9A1F929A21A0B68540EEA2DA725B99B315F3B8B489918EF109E156193951EC7E937B1652C0BD3BB1BF073573DF883D2C34F1EF451FD46B503F00,
    ),
    _montgomery(
        "x25519",
        29,
        2**255 - 19,
        # The two u-coordinates of order 8.
        (
            325606250916557431795983626356110631294008115727848805560023387167927233504,
            39382357235489614581723060781553021112529911719440698176882885853963445705823,
        ),
    ),
    _montgomery("x448", 30, 2**448 - 2**224 - 1),
)
"""secp256r1, secp384r1, secp521r1, x25519, x448. Finite-field groups are not supported."""
