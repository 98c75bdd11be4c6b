"""Key types and TLS signature schemes: the one table of names, hashes, paddings and sizes.

Sources: RFC 8446 section 4.2.3 (SignatureScheme), RFC 8422 section 5.1.1 (named curves), FIPS 186-5.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes


class Family(Enum):
    """Families of key types; each needs its own operations."""

    RSA = "rsa"
    EC = "ec"
    ED25519 = "ed25519"


class KeyType(Enum):
    """Key types that hsmd generates and serves; the values are their names for users."""

    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"
    P256 = "p-256"
    P384 = "p-384"
    P521 = "p-521"
    ED25519 = "ed25519"

    @property
    def facts(self) -> KeyFacts:
        """Sizes and names of the type."""
        return KEY_TYPES[self]


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """Properties of a key type.

    `size_bytes` is the length of the modulus (RSA), of a field element (EC) or of a key (Ed25519). `work` is the approximate
    cost of using the private key in software, relative to a P-256 signature; it is used to share a token fairly.
    """

    family: Family
    bits: int
    size_bytes: int
    work: float
    curve: str = ""


KEY_TYPES: dict[KeyType, KeyFacts] = {
    KeyType.RSA_2048: KeyFacts(Family.RSA, 2048, 256, 9.0),
    KeyType.RSA_3072: KeyFacts(Family.RSA, 3072, 384, 26.0),
    KeyType.RSA_4096: KeyFacts(Family.RSA, 4096, 512, 55.0),
    KeyType.P256: KeyFacts(Family.EC, 256, 32, 1.0, "secp256r1"),
    KeyType.P384: KeyFacts(Family.EC, 384, 48, 8.0, "secp384r1"),
    KeyType.P521: KeyFacts(Family.EC, 521, 66, 14.0, "secp521r1"),
    KeyType.ED25519: KeyFacts(Family.ED25519, 256, 32, 1.2),
}


class SignatureScheme(IntEnum):
    """TLS SignatureScheme code points (RFC 8446, section 4.2.3)."""

    RSA_PKCS1_SHA256 = 0x0401
    RSA_PKCS1_SHA384 = 0x0501
    RSA_PKCS1_SHA512 = 0x0601
    ECDSA_SHA256 = 0x0403
    ECDSA_SHA384 = 0x0503
    ECDSA_SHA512 = 0x0603
    RSA_PSS_SHA256 = 0x0804
    RSA_PSS_SHA384 = 0x0805
    RSA_PSS_SHA512 = 0x0806
    ED25519 = 0x0807

    @property
    def facts(self) -> SchemeFacts:
        """Family, hash and padding of the scheme."""
        return SCHEMES[self]


class Padding(Enum):
    """RSA signature paddings (RFC 8017, sections 8.1 and 8.2)."""

    NONE = ""
    PKCS1 = "pkcs1"
    PSS = "pss"


@dataclass(frozen=True, slots=True)
class SchemeFacts:
    """Properties of a signature scheme.

    `hash` is a `hashlib` name, empty for Ed25519, which hashes internally. `tls13_curve` is the only curve that TLS 1.3
    allows with the scheme; TLS 1.2 allows any (RFC 8446, section 4.2.3). The PSS salt is as long as the hash.
    """

    family: Family
    hash: str
    hash_bytes: int
    padding: Padding = Padding.NONE
    tls13_curve: str = ""


SCHEMES: dict[SignatureScheme, SchemeFacts] = {
    SignatureScheme.RSA_PKCS1_SHA256: SchemeFacts(Family.RSA, "sha256", 32, Padding.PKCS1),
    SignatureScheme.RSA_PKCS1_SHA384: SchemeFacts(Family.RSA, "sha384", 48, Padding.PKCS1),
    SignatureScheme.RSA_PKCS1_SHA512: SchemeFacts(Family.RSA, "sha512", 64, Padding.PKCS1),
    SignatureScheme.ECDSA_SHA256: SchemeFacts(Family.EC, "sha256", 32, tls13_curve="secp256r1"),
    SignatureScheme.ECDSA_SHA384: SchemeFacts(Family.EC, "sha384", 48, tls13_curve="secp384r1"),
    SignatureScheme.ECDSA_SHA512: SchemeFacts(Family.EC, "sha512", 64, tls13_curve="secp521r1"),
    SignatureScheme.RSA_PSS_SHA256: SchemeFacts(Family.RSA, "sha256", 32, Padding.PSS),
    SignatureScheme.RSA_PSS_SHA384: SchemeFacts(Family.RSA, "sha384", 48, Padding.PSS),
    SignatureScheme.RSA_PSS_SHA512: SchemeFacts(Family.RSA, "sha512", 64, Padding.PSS),
    SignatureScheme.ED25519: SchemeFacts(Family.ED25519, "", 0),
}


def key_type_of(public_key: PublicKeyTypes) -> KeyType | None:
    """The key type of a public key, or None if hsmd does not serve such keys."""
    if isinstance(public_key, rsa.RSAPublicKey):
        return _RSA_BY_BITS.get(public_key.key_size)
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return _EC_BY_CURVE.get(public_key.curve.name)
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        return KeyType.ED25519
    return None


def schemes_for(key_type: KeyType) -> tuple[SignatureScheme, ...]:
    """The schemes that a key of this type can use; for EC, the one that TLS 1.3 allows comes first."""
    facts = key_type.facts
    fitting = [scheme for scheme, of in SCHEMES.items() if of.family is facts.family]
    return tuple(sorted(fitting, key=lambda scheme: SCHEMES[scheme].tls13_curve != facts.curve))


_RSA_BY_BITS = {facts.bits: name for name, facts in KEY_TYPES.items() if facts.family is Family.RSA}
_EC_BY_CURVE = {facts.curve: name for name, facts in KEY_TYPES.items() if facts.family is Family.EC}
