"""Public keys in their one form: SubjectPublicKeyInfo in DER of which there is no second for the same key.

Keys are compared by the SHA-256 of these bytes, so what could be written in two ways is refused in all but one.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from hsmd.errors import EnvelopeInvalid

MAX_SPKI_BYTES = 4_096
MIN_RSA_BITS, MAX_RSA_BITS = 2_048, 8_192
MAX_RSA_EXPONENT = 2**64
"""OpenSSL uses no larger exponents with moduli above 3072 bits; one as long as the modulus makes each use slow."""
LONG_RSA_BITS, MAX_LONG_RSA_EXPONENT = 4_096, 65_537
"""Beyond this length the exponent is at most the usual one: with 8192 bits, 2^64 - 1 takes a daemon 3 ms for each use."""

SubjectKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | x25519.X25519PublicKey

_CURVES = {"secp256r1": "p256", "secp384r1": "p384", "secp521r1": "p521"}
_FIELD = 2**255 - 19
"""The prime of Curve25519 (RFC 7748, section 4.1)."""
_ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_EDWARDS = frozenset({0, 1, _FIELD - 1, _ORDER_8, _FIELD - _ORDER_8})
"""y of the eight points of small order of edwards25519: under such a key anyone can sign."""
_SMALL_MONTGOMERY = frozenset(
    {
        0,
        1,
        _FIELD - 1,
        0x00B8495F16056286FDB1329CEB8D09DA6AC49FF1FAE35616AEB8413B7C7AEBE0,
        0x57119FD0DD4E22D8868E1C58C45C44045BEF839C55B1D0B1248C50A3BC959C5F,
    }
)
"""u of the points of small order of Curve25519 and of its twist: what is sealed to such a key opens for anyone."""


@dataclass(frozen=True, slots=True)
class PublicKeyFacts:
    """A public key and what it is good for."""

    der: bytes
    digest: bytes
    """SHA-256 of `der`."""
    kind: str
    """`rsa-` and the bits of the modulus, `p256`, `p384`, `p521`, `ed25519` or `x25519`."""
    can_sign: bool
    can_open: bool
    """Whether an envelope can be sealed to it: RSA, P-256 and X25519."""


def canonical_spki(der: bytes) -> PublicKeyFacts:
    """The public key in `der`. Raises EnvelopeInvalid unless `der` is the one form of a key of a known kind.

    RSA of 2048 to 8192 bits with parameters NULL; P-256, P-384 and P-521 with a named curve and an uncompressed point
    (RFC 5480); Ed25519 and X25519 (RFC 8410) with reduced coordinates, and not of small order.
    """
    key = load(der)
    kind = _kind(key)
    return PublicKeyFacts(
        der,
        sha256(der).digest(),
        kind,
        can_sign=not isinstance(key, x25519.X25519PublicKey),
        can_open=kind in ("p256", "x25519") or isinstance(key, rsa.RSAPublicKey),
    )


def type_name(der: bytes) -> str:
    """The type as `hsmd vault generate --type` has it: `rsa-` and the bits, `p-256`, `p-384`, `p-521`, `ed25519` or `x25519`.

    Raises EnvelopeInvalid.
    """
    kind = canonical_spki(der).kind
    return kind.replace("p", "p-") if kind in _CURVES.values() else kind


def load(der: bytes) -> SubjectKey:
    """The same as an object of `cryptography`. Raises EnvelopeInvalid."""
    if len(der) > MAX_SPKI_BYTES:
        raise EnvelopeInvalid(f"public key: longer than {MAX_SPKI_BYTES} bytes")
    try:
        key = load_der_public_key(der)
        again = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise EnvelopeInvalid("public key: not a SubjectPublicKeyInfo in DER of a kind known here") from None
    if not isinstance(key, SubjectKey):
        raise EnvelopeInvalid("public key: not RSA, EC, Ed25519 or X25519")
    if again != der:
        raise EnvelopeInvalid(
            "public key: not in its canonical form (RSA with parameters NULL, EC with a named curve and an "
            "uncompressed point, nothing behind the end)"
        )
    _check_numbers(key)
    return key


def _check_numbers(key: SubjectKey) -> None:
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
            raise EnvelopeInvalid(
                f"public key: RSA of {key.key_size} bits; {MIN_RSA_BITS} to {MAX_RSA_BITS} are taken"
            )
        largest = MAX_LONG_RSA_EXPONENT if key.key_size > LONG_RSA_BITS else MAX_RSA_EXPONENT - 1
        if numbers.n % 2 == 0 or numbers.e % 2 == 0 or not 3 <= numbers.e <= largest:
            raise EnvelopeInvalid(
                "public key: the modulus or the exponent of this RSA key is not usable; make a key with the exponent 65537"
            )
    elif isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.name not in _CURVES:
            raise EnvelopeInvalid("public key: a curve other than P-256, P-384 and P-521")
    else:
        check_coordinate(key)


def check_coordinate(key: ed25519.Ed25519PublicKey | x25519.X25519PublicKey) -> None:
    """Raises EnvelopeInvalid unless the coordinate is reduced, and not that of a point of small order.

    Of a coordinate beyond the field there would be a second form; u also has an unused bit (RFC 7748, section 5).
    """
    number = int.from_bytes(key.public_bytes_raw(), "little")
    small = _SMALL_MONTGOMERY
    if isinstance(key, ed25519.Ed25519PublicKey):
        number, small = (
            number % 2**255,
            _SMALL_EDWARDS,
        )  # the highest bit is the sign of x (RFC 8032, section 5.1.2)
    if number >= _FIELD or number in small:
        raise EnvelopeInvalid("public key: its coordinate is not reduced, or its point is of small order")


def _kind(key: SubjectKey) -> str:
    if isinstance(key, rsa.RSAPublicKey):
        return f"rsa-{key.key_size}"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return _CURVES[key.curve.name]
    return "ed25519" if isinstance(key, ed25519.Ed25519PublicKey) else "x25519"
