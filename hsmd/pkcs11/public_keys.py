"""Public halves of keys: from the attributes of PKCS#11 objects to a DER SubjectPublicKeyInfo and back.

The SHA-256 of the SubjectPublicKeyInfo is the key's digest, which identifies the key everywhere in hsmd.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import pkcs11
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from pkcs11 import Attribute, KeyType as KeyKind

from hsmd.algorithms import Family, KeyType, key_type_of

CURVE_OIDS = {
    "secp256r1": bytes.fromhex("06082a8648ce3d030107"),
    "secp384r1": bytes.fromhex("06052b81040022"),
    "secp521r1": bytes.fromhex("06052b81040023"),
}
"""CKA_EC_PARAMS: the DER object identifier of a named curve (RFC 8422, RFC 5480)."""
ED25519_PARAMS = bytes.fromhex("130c") + b"edwards25519"
"""CKA_EC_PARAMS of Ed25519 in the first form of PKCS#11 3.0, a PrintableString."""
_ED25519_OID = bytes.fromhex("06032b6570")

_CURVES: dict[bytes, ec.EllipticCurve] = {
    CURVE_OIDS["secp256r1"]: ec.SECP256R1(),
    CURVE_OIDS["secp384r1"]: ec.SECP384R1(),
    CURVE_OIDS["secp521r1"]: ec.SECP521R1(),
}
_OCTET_STRING = 0x04


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


def read_public_half(key_object: Any) -> PublicHalf | None:
    """The public half in a key object's attributes, or None.

    A private RSA key has it; of an EC or Ed25519 pair only the public key object has it.
    """
    try:
        public_key = _read(key_object)
    except (
        pkcs11.AttributeTypeInvalid,
        pkcs11.AttributeSensitive,
        pkcs11.FunctionFailed,
        ValueError,
        KeyError,
    ):
        return None
    return None if public_key is None else PublicHalf.of(public_key)


def private_fits(private: Any, half: PublicHalf) -> bool:
    """Whether a private key object can belong to `half`: same modulus, or same type and curve."""
    family = half.key_type.facts.family
    try:
        if family is Family.RSA:
            shown = read_public_half(private)
            return shown is not None and shown.digest == half.digest
        if family is Family.EC:
            return bool(
                private[Attribute.KEY_TYPE] is KeyKind.EC
                and private[Attribute.EC_PARAMS] == CURVE_OIDS[half.key_type.facts.curve]
            )
        return private[Attribute.KEY_TYPE] is KeyKind.EC_EDWARDS
    except (
        pkcs11.AttributeTypeInvalid,
        pkcs11.AttributeSensitive,
        pkcs11.FunctionFailed,
        ValueError,
        KeyError,
    ):
        return False


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
            Attribute.EC_POINT: _octet_string(point),
        }
    point = public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return {
        Attribute.KEY_TYPE: KeyKind.EC_EDWARDS,
        Attribute.EC_PARAMS: ED25519_PARAMS,
        Attribute.EC_POINT: _octet_string(point),
    }


def big_integer(value: int) -> bytes:
    """A PKCS#11 big integer: unsigned, big-endian, shortest form."""
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def _read(key_object: Any) -> PublicKeyTypes | None:
    kind = key_object[Attribute.KEY_TYPE]
    if kind is KeyKind.RSA:
        modulus = int.from_bytes(key_object[Attribute.MODULUS], "big")
        exponent = int.from_bytes(key_object[Attribute.PUBLIC_EXPONENT], "big")
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    params = key_object[Attribute.EC_PARAMS]
    if kind is KeyKind.EC and params in _CURVES:
        return ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[params], _point(key_object))
    if kind is KeyKind.EC_EDWARDS and params in (ED25519_PARAMS, _ED25519_OID):
        return ed25519.Ed25519PublicKey.from_public_bytes(_point(key_object))
    return None


def _point(key_object: Any) -> bytes:
    """CKA_EC_POINT: a DER OCTET STRING according to the standard, the bare point with some tokens."""
    value: bytes = key_object[Attribute.EC_POINT]
    for header in (2, 3):
        if len(value) > header and value == _octet_string(value[header:]):
            return value[header:]
    return value


def _octet_string(content: bytes) -> bytes:
    """DER; EC points are shorter than 256 bytes."""
    length = bytes([len(content)]) if len(content) < 0x80 else bytes([0x81, len(content)])
    return bytes([_OCTET_STRING]) + length + content
