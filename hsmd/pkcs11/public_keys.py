"""Public halves of keys: from the attributes of PKCS#11 objects to a DER SubjectPublicKeyInfo and back.

The SHA-256 of the SubjectPublicKeyInfo is the key's digest, which identifies the key everywhere in hsmd. Objects that other
programs have made may hide attributes or encode them in ways of their own: what can be told from them is told.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509 import InvalidVersion, load_der_x509_certificate
from pkcs11 import Attribute, KeyType as KeyKind, ObjectClass

from hsmd.algorithms import Family, KeyType, key_type_of
from hsmd.pkcs11.attributes import read

CURVE_OIDS = {
    "secp256r1": bytes.fromhex("06082a8648ce3d030107"),
    "secp384r1": bytes.fromhex("06052b81040022"),
    "secp521r1": bytes.fromhex("06052b81040023"),
}
"""CKA_EC_PARAMS: the DER object identifier of a named curve (RFC 8422, RFC 5480)."""
ED25519_PARAMS = bytes.fromhex("130c") + b"edwards25519"
"""CKA_EC_PARAMS of Ed25519 in the first form of PKCS#11 3.0, a PrintableString."""
_ED25519_OID = bytes.fromhex("06032b6570")
ED25519_CURVE = "ed25519"

_CURVES: dict[str, ec.EllipticCurve] = {
    "secp256r1": ec.SECP256R1(),
    "secp384r1": ec.SECP384R1(),
    "secp521r1": ec.SECP521R1(),
}
_NAME_OF_OID = {**{params: name for name, params in CURVE_OIDS.items()}, _ED25519_OID: ED25519_CURVE}
_PRINTABLE_NAMES = {
    b"secp256r1": "secp256r1", b"prime256v1": "secp256r1", b"p-256": "secp256r1",
    b"secp384r1": "secp384r1", b"p-384": "secp384r1",
    b"secp521r1": "secp521r1", b"p-521": "secp521r1",
    b"edwards25519": ED25519_CURVE, b"ed25519": ED25519_CURVE,
}  # fmt: skip
"""Names in a PrintableString (PKCS#11 3.0, section 2.3.3, `curveName`), in lower case."""
_PRIMES = {
    "secp256r1": 2**256 - 2**224 + 2**192 + 2**96 - 1,
    "secp384r1": 2**384 - 2**128 - 2**96 + 2**32 - 1,
    "secp521r1": 2**521 - 1,
}
_KIND = {Family.EC: KeyKind.EC, Family.ED25519: KeyKind.EC_EDWARDS}
_BIT_STRING, _OCTET_STRING, _OBJECT_IDENTIFIER, _PRINTABLE_STRING, _SEQUENCE = 0x03, 0x04, 0x06, 0x13, 0x30


@dataclass(frozen=True, slots=True)
class PublicHalf:
    """The public half of a key that hsmd can serve."""

    key_type: KeyType
    spki: bytes
    digest: bytes
    public_key: Any

    @staticmethod
    def of(public_key: PublicKeyTypes) -> PublicHalf | None:
        """None if hsmd does not serve keys of this type."""
        key_type = key_type_of(public_key)
        if key_type is None:
            return None
        spki = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return PublicHalf(key_type, spki, hashlib.sha256(spki).digest(), public_key)

    @staticmethod
    def from_spki(spki: bytes) -> PublicHalf | None:
        """None unless `spki` is the canonical DER encoding of a public key that hsmd serves."""
        try:
            half = PublicHalf.of(load_der_public_key(spki))
        except (ValueError, UnsupportedAlgorithm):
            return None
        return half if half is not None and half.spki == spki else None


class Fit(IntEnum):
    """What the attributes of a private key object tell about whether it belongs to a public half."""

    NO = 0
    """It does not."""
    UNKNOWN = 1
    """The object does not show its type or curve, or an RSA key its modulus: only a proof tells."""
    TYPE = 2
    """Same type and curve; an EC private key shows no more."""
    MODULUS = 3
    """Same RSA modulus."""


def read_public_half(key_object: Any) -> PublicHalf | None:
    """The public half in the attributes of a key or certificate object, or None.

    A private RSA key has it, if it shows modulus and exponent; of an EC or Ed25519 pair only the public key object has it.
    """
    try:
        certificate = read(key_object, Attribute.VALUE) if _is_certificate(key_object) else None
        public_key = load_der_x509_certificate(certificate).public_key() if certificate else _read(key_object)
        return None if public_key is None else PublicHalf.of(public_key)
    except (ValueError, InvalidVersion, UnsupportedAlgorithm):
        return None


def fit(private: Any, half: PublicHalf) -> Fit:
    """What the attributes of a private key object tell about whether it belongs to `half`."""
    kind = read(private, Attribute.KEY_TYPE)
    if half.key_type.facts.family is Family.RSA:
        return _rsa_fit(private, half) if kind in (KeyKind.RSA, None) else Fit.NO
    if kind not in (_KIND[half.key_type.facts.family], None):
        return Fit.NO
    curve = curve_of(read(private, Attribute.EC_PARAMS))
    if curve is None or kind is None:
        return Fit.UNKNOWN
    return Fit.TYPE if curve == _curve_name(half) else Fit.NO


def private_fits(private: Any, half: PublicHalf) -> bool:
    """Whether a private key object can belong to `half`: nothing that it shows contradicts that."""
    return fit(private, half) is not Fit.NO


def curve_of(params: bytes | None) -> str | None:
    """The curve in CKA_EC_PARAMS: an empty text for one that hsmd does not serve, None if it cannot be told.

    A named curve (object identifier or PrintableString), or explicit parameters (RFC 3279, section 2.3.5), which are told
    apart by their prime: the point that comes with them is one of that curve, or loading it fails.
    """
    if not params:
        return None
    if params[0] == _OBJECT_IDENTIFIER:
        return _NAME_OF_OID.get(params, "")
    if params[0] == _PRINTABLE_STRING:
        return _PRINTABLE_NAMES.get(params[2:].lower(), "")
    if params[0] == _SEQUENCE:
        primes = [name for name, prime in _PRIMES.items() if b"\x02" + _der_integer(prime) in params]
        return primes[0] if primes else ""
    return None


def public_attributes(half: PublicHalf) -> dict[Attribute, Any]:
    """The attributes of a new object that hold the public key."""
    public_key = half.public_key
    if isinstance(public_key, rsa.RSAPublicKey):
        numbers = public_key.public_numbers()
        return {
            Attribute.KEY_TYPE: KeyKind.RSA,
            Attribute.MODULUS: big_integer(numbers.n),
            Attribute.PUBLIC_EXPONENT: big_integer(numbers.e),
        }
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        point = public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        params = CURVE_OIDS[half.key_type.facts.curve]
        return {
            Attribute.KEY_TYPE: KeyKind.EC,
            Attribute.EC_PARAMS: params,
            Attribute.EC_POINT: _der(_OCTET_STRING, point),
        }
    point = public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return {
        Attribute.KEY_TYPE: KeyKind.EC_EDWARDS,
        Attribute.EC_PARAMS: ED25519_PARAMS,
        Attribute.EC_POINT: _der(_OCTET_STRING, point),
    }


def big_integer(value: int) -> bytes:
    """A PKCS#11 big integer: unsigned, big-endian, shortest form."""
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def _rsa_fit(private: Any, half: PublicHalf) -> Fit:
    """Some tokens hide modulus and exponent of a private key, or give an exponent of zero."""
    numbers = half.public_key.public_numbers()
    modulus = int.from_bytes(read(private, Attribute.MODULUS) or b"", "big")
    exponent = int.from_bytes(read(private, Attribute.PUBLIC_EXPONENT) or b"", "big")
    if modulus not in (0, numbers.n) or exponent not in (0, numbers.e):
        return Fit.NO
    return Fit.MODULUS if modulus else Fit.UNKNOWN


def _is_certificate(key_object: Any) -> bool:
    return bool(read(key_object, Attribute.CLASS) == ObjectClass.CERTIFICATE)


def _curve_name(half: PublicHalf) -> str:
    return half.key_type.facts.curve or ED25519_CURVE


def _read(key_object: Any) -> PublicKeyTypes | None:
    """Raises ValueError for numbers that are no public key."""
    kind = read(key_object, Attribute.KEY_TYPE)
    if kind == KeyKind.RSA:
        modulus, exponent = read(key_object, Attribute.MODULUS), read(key_object, Attribute.PUBLIC_EXPONENT)
        if not modulus or not exponent:
            return None
        return rsa.RSAPublicNumbers(
            int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big")
        ).public_key()
    curve, point = curve_of(read(key_object, Attribute.EC_PARAMS)), read(key_object, Attribute.EC_POINT)
    if not point or curve == "":
        return None
    if kind == KeyKind.EC:
        return _ec_public_key(curve, point)
    if kind == KeyKind.EC_EDWARDS and curve in (ED25519_CURVE, None):
        return ed25519.Ed25519PublicKey.from_public_bytes(_bare_point(point, (32,)))
    return None


def _ec_public_key(curve: str | None, point: bytes) -> PublicKeyTypes | None:
    """Without a curve the length of the point tells it; a point of another curve of that length does not load."""
    for name, kind in _CURVES.items():
        size = (kind.key_size + 7) // 8
        lengths = (2 * size + 1, size + 1)  # uncompressed and compressed (SEC 1, section 2.3.3)
        bare = _bare_point(point, lengths)
        if curve == name or (curve is None and len(bare) in lengths):
            return ec.EllipticCurvePublicKey.from_encoded_point(kind, bare)
    return None


def _bare_point(value: bytes, lengths: tuple[int, ...]) -> bytes:
    """CKA_EC_POINT: a DER OCTET STRING according to the standard; a BIT STRING or the bare point with some tokens.

    The length tells which, because the first bytes of a bare point may look like a header.
    """
    for header, tag, unused in (
        (0, None, b""),
        (2, _OCTET_STRING, b""),
        (3, _OCTET_STRING, b""),
        (3, _BIT_STRING, b"\0"),
        (4, _BIT_STRING, b"\0"),
    ):
        bare = value[header:]
        if len(bare) in lengths and (tag is None or value == _der(tag, unused + bare)):
            return bare
    return value


def _der_integer(value: int) -> bytes:
    """Length and content of a positive DER INTEGER below 2**1016."""
    content = value.to_bytes(value.bit_length() // 8 + 1, "big")
    return bytes([len(content)]) + content


def _der(tag: int, content: bytes) -> bytes:
    """DER; EC points are shorter than 256 bytes."""
    length = bytes([len(content)]) if len(content) < 0x80 else bytes([0x81, len(content)])
    return bytes([tag]) + length + content
