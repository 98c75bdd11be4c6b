"""A private key from its DER encoding: PKCS#8 (RFC 5958), PKCS#1 (RFC 8017, appendix A.1.2) and SEC 1 (RFC 5915), checked.

Every number of a key is checked against the others here, because tokens accept what does not fit and then fail at use. Used
only by the one-shot import worker; no error contains a part of the key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmd.algorithms import KEY_TYPES, Family, KeyType
from hsmd.daemon.worker import weak_keys
from hsmd.errors import BadRequest, PurposeMismatch
from hsmd.pkcs11.public_keys import CURVE_OIDS
from hsmd.purposes.asn1 import BIT_STRING, CONTEXT_0, INTEGER, OBJECT_IDENTIFIER, SEQUENCE, DerReader

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_NULL, _OCTET_STRING, _CONTEXT_1, _IMPLICIT_1 = 0x05, 0x04, 0xA1, 0x81
_CONVERT = "`openssl pkey -in FILE -out NEW`"
_SERVED = ", ".join(kind.value for kind in KeyType)

_RSA = "2a864886f70d010101"
_RSA_PSS = "2a864886f70d01010a"
_RSA_OAEP = "2a864886f70d010107"
_EC = "2a8648ce3d0201"
_ED25519 = "2b6570"
_OTHER_ALGORITHMS = {
    "2b656e": "X25519 key",
    "2b656f": "X448 key",
    "2b6571": "Ed448 key",
    "2a8648ce380401": "DSA key",
    "2a864886f70d010301": "Diffie-Hellman key",
    "2a8648ce3e0201": "Diffie-Hellman key",
    "2a811ccf5501822d": "SM2 key",
    "2a8503020213": "GOST key",
    "2a85030701010101": "GOST key",
    "2a85030701010102": "GOST key",
    **{f"6086480165030403{last:02x}": "ML-DSA key" for last in (17, 18, 19)},
    **{f"6086480165030404{last:02x}": "ML-KEM key" for last in (1, 2, 3)},
}
"""Content of the OBJECT IDENTIFIER in hex, for algorithms that hsmd does not serve."""
_OTHER_CURVES = {
    "2a811ccf5501822d": "SM2",
    "2b8104000a": "secp256k1",
    "2b81040021": "secp224r1",
    "2a8648ce3d030101": "secp192r1",
    "2b81040010": "sect283k1",
    "2b81040011": "sect283r1",
    "2b2403030208010107": "brainpoolP256r1",
    "2b240303020801010b": "brainpoolP384r1",
    "2b240303020801010d": "brainpoolP512r1",
}
_CURVES: dict[str, tuple[KeyType, ec.EllipticCurve, int]] = {
    CURVE_OIDS["secp256r1"][2:].hex(): (
        KeyType.P256,
        ec.SECP256R1(),
        0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    ),
    CURVE_OIDS["secp384r1"][2:].hex(): (
        KeyType.P384,
        ec.SECP384R1(),
        0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
    ),
    CURVE_OIDS["secp521r1"][2:].hex(): (
        KeyType.P521,
        ec.SECP521R1(),
        (1 << 521) - 0x5AE79787C40D069948033FEB708F65A2FC44A36477663B851449048E16EC79BF7,
    ),
}
"""By the content of the curve's OBJECT IDENTIFIER: key type, curve, and order of the base point (SEC 2)."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A private key whose numbers fit each other, and why it is weak, if it is."""

    private: PrivateKey
    weaknesses: list[str]


def from_pkcs8(der: bytes) -> Checked:
    """The key in a PrivateKeyInfo or OneAsymmetricKey. Raises BadRequest."""
    return _read(_pkcs8, der)


def from_pkcs1(der: bytes) -> Checked:
    """The key in an RSAPrivateKey. Raises BadRequest."""
    return _read(_rsa, der)


def from_sec1(der: bytes) -> Checked:
    """The key in an ECPrivateKey, which names its curve. Raises BadRequest."""
    return _read(lambda reader: _ec(reader, None), der)


def _read(read: Callable[[DerReader], Checked], der: bytes) -> Checked:
    reader = DerReader(der, "a private key")
    try:
        inner = reader.enter(SEQUENCE)
        reader.finish()
        return read(inner)
    except PurposeMismatch as error:
        why = error.text.partition(": ")[2]
        raise _damaged(f"{why}; write it anew with {_CONVERT}, or copy the file again") from None


def _damaged(why: str) -> BadRequest:
    return BadRequest(f"pem: the private key is damaged: {why}")


def _unsupported(what: str) -> BadRequest:
    return BadRequest(f"pem: this is {what}, a type or size that hsmd does not serve; it serves {_SERVED}")


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'EMSX' else 'a'} {name}"


# --- PKCS#8 ---


def _pkcs8(reader: DerReader) -> Checked:
    version = _integer(reader)
    algorithm = reader.enter(SEQUENCE)
    oid = algorithm.content(OBJECT_IDENTIFIER).hex()
    parameters = algorithm.next_tag()
    named_curve = explicit = ""
    if parameters == OBJECT_IDENTIFIER:
        named_curve = algorithm.content(OBJECT_IDENTIFIER).hex()
    elif parameters == SEQUENCE:
        algorithm.whole(SEQUENCE)
        explicit = "explicit"
    elif parameters == _NULL and algorithm.content(_NULL):
        raise algorithm.mismatch("NULL with a content")
    content = reader.enter(_OCTET_STRING)
    if reader.next_tag() == CONTEXT_0:
        reader.whole(CONTEXT_0)
    public = _public_key(reader, version)
    _refuse_other_algorithm(oid)
    algorithm.finish()
    reader.finish()
    if oid == _RSA:
        if parameters not in (None, _NULL):
            raise algorithm.mismatch("RSA with parameters")
        return _matching(_whole(content, _rsa), public)
    if oid == _ED25519:
        if parameters is not None:
            raise algorithm.mismatch("Ed25519 with parameters")
        return _matching(_ed25519(content), public)
    if explicit:
        raise _explicit_parameters()
    if not named_curve:
        raise _damaged("it does not name its curve; make it anew with `openssl pkey`, or make a new key")
    return _matching(_whole(content, lambda inner: _ec(inner, named_curve)), public)


def _whole(content: DerReader, read: Callable[[DerReader], Checked]) -> Checked:
    inner = content.enter(SEQUENCE)
    content.finish()
    return read(inner)


def _public_key(reader: DerReader, version: int) -> bytes | None:
    """The public key of a OneAsymmetricKey, which is version 2 (RFC 5958, section 2)."""
    if version not in (0, 1):
        raise reader.mismatch("an unknown version of PKCS#8")
    if reader.next_tag() != _IMPLICIT_1:
        return None
    if version == 0:
        raise reader.mismatch("a public key in a version that has none")
    return _bits(reader, reader.content(_IMPLICIT_1))


def _matching(checked: Checked, public: bytes | None) -> Checked:
    if public is not None and public not in _encodings(checked.private):
        raise _damaged("its public key belongs to another private key; find out which file is the right one")
    return checked


def _encodings(private: PrivateKey) -> list[bytes]:
    public = private.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        return [public.public_bytes(Encoding.DER, PublicFormat.PKCS1)]
    if isinstance(public, ed25519.Ed25519PublicKey):
        return [public.public_bytes_raw()]
    forms = (PublicFormat.UncompressedPoint, PublicFormat.CompressedPoint)
    return [public.public_bytes(Encoding.X962, form) for form in forms]


def _refuse_other_algorithm(oid: str) -> None:
    if oid in (_RSA, _EC, _ED25519):
        return
    if oid == _RSA_PSS:
        raise BadRequest(
            "pem: this is an RSA-PSS key (id-RSASSA-PSS), with which TLS servers do not work with hsmd; make a new key "
            "of plain RSA (`openssl genrsa`, or `hsmd key generate`) and have a certificate issued for it"
        )
    if oid == _RSA_OAEP:
        raise BadRequest(
            "pem: this is an RSA key for OAEP only (id-RSAES-OAEP), which TLS cannot use; make a new key"
        )
    name = _OTHER_ALGORITHMS.get(oid)
    raise _unsupported(_with_article(name) if name else f"a key of the algorithm {_dotted(oid)}")


def _dotted(oid: str) -> str:
    """Arcs of an OBJECT IDENTIFIER, which may be long."""
    arcs, value = [], 0
    for octet in bytes.fromhex(oid):
        value = value << 7 | octet & 0x7F
        if not octet & 0x80:
            arcs.append(value)
            value = 0
    if not arcs:
        return "without an identifier"
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, [first, arcs[0] - 40 * first, *arcs[1:]]))[:80]


# --- RSA ---


def _rsa(reader: DerReader) -> Checked:
    version = _integer(reader)
    n, e, d, p, q, dp, dq, inverse = (_integer(reader) for _ in range(8))
    if version == 1:
        others = reader.enter(SEQUENCE)
        count = 2
        while others.next_tag() is not None:
            others.whole(SEQUENCE)
            count += 1
        reader.finish()
        raise BadRequest(f"pem: this is an RSA key with {count} primes; tokens take two: make a new key")
    if version != 0:
        raise reader.mismatch("an unknown version of RSA keys")
    reader.finish()
    if 0 in (p, q, dp, dq, inverse):
        raise _damaged("its primes or CRT exponents are missing; write it anew with `openssl rsa`")
    _check_rsa(n, e, d, p, q, dp, dq, inverse)
    numbers = rsa.RSAPrivateNumbers(p, q, d, dp, dq, inverse, rsa.RSAPublicNumbers(e, n))
    if n.bit_length() not in {facts.bits for facts in KEY_TYPES.values() if facts.family is Family.RSA}:
        raise _unsupported(f"an RSA key with {n.bit_length()} bits")
    try:
        private = numbers.private_key()
    except ValueError:
        raise _damaged("its numbers do not fit each other; copy the file again") from None
    return Checked(private, weak_keys.rsa_weaknesses(p, q, e, d))


def _check_rsa(n: int, e: int, d: int, p: int, q: int, dp: int, dq: int, inverse: int) -> None:
    advice = "copy the file again"
    if p * q != n:
        raise _damaged(f"its modulus is not the product of its primes; {advice}")
    if p == q:
        raise _damaged("its primes are equal; make a new key")
    if not e & 1 or e < 3:
        raise _damaged(f"its public exponent {e} is not odd and greater than 1; make a new key")
    if pow(2, p - 1, p) != 1 or pow(2, q - 1, q) != 1:
        raise _damaged("one of its primes is not prime; make a new key")
    if e * d % (p - 1) != 1 or e * d % (q - 1) != 1:
        raise _damaged(f"its private exponent does not fit the public one; {advice}")
    if dp != d % (p - 1) or dq != d % (q - 1):
        raise _damaged(f"its CRT exponents do not fit the private exponent; {advice}")
    if inverse >= p or inverse * q % p != 1:
        raise _damaged(f"its CRT coefficient does not fit the primes; {advice}")


# --- EC ---


def _ec(reader: DerReader, named_curve: str | None) -> Checked:
    """`named_curve` is from the algorithm identifier of PKCS#8, None in the traditional format."""
    if _integer(reader) != 1:
        raise reader.mismatch("an unknown version of EC keys")
    value = reader.content(_OCTET_STRING)
    inner = _inner_curve(reader)
    public = None
    if reader.next_tag() == _CONTEXT_1:
        wrapped = reader.enter(_CONTEXT_1)
        public = _bits(wrapped, wrapped.content(BIT_STRING))
        wrapped.finish()
    reader.finish()
    oid = named_curve or inner
    if not oid:
        raise _damaged("it does not name its curve; make a new key")
    if inner and inner != oid:
        raise _damaged("it names two different curves; make a new key")
    if oid not in _CURVES:
        raise _unsupported(f"an EC key on the curve {_OTHER_CURVES.get(oid) or _dotted(oid)}")
    return _matching(_on_curve(value, *_CURVES[oid]), public)


def _inner_curve(reader: DerReader) -> str:
    if reader.next_tag() != CONTEXT_0:
        return ""
    parameters = reader.enter(CONTEXT_0)
    if parameters.next_tag() == SEQUENCE:
        raise _explicit_parameters()
    oid = parameters.content(OBJECT_IDENTIFIER).hex()
    parameters.finish()
    return oid


def _on_curve(value: bytes, key_type: KeyType, curve: ec.EllipticCurve, order: int) -> Checked:
    size = key_type.facts.size_bytes
    if len(value) != size:
        raise _damaged(
            f"its private value has {len(value)} bytes, and {size} are right for {key_type.value}; write it anew with {_CONVERT}"
        )
    d = int.from_bytes(value)
    if not 0 < d < order:
        raise _damaged("its private value is not between 1 and the order of the curve; make a new key")
    return Checked(ec.derive_private_key(d, curve), weak_keys.ec_weaknesses(d, order))


def _explicit_parameters() -> BadRequest:
    return BadRequest(
        "pem: this EC key describes its curve by parameters instead of a name, which TLS forbids (RFC 8422, section 5.1.1); if "
        "the curve is a known one, write it anew with `openssl pkey -in FILE -ec_param_enc named_curve -out NEW`"
    )


# --- Ed25519 ---


def _ed25519(content: DerReader) -> Checked:
    seed = content.content(_OCTET_STRING)
    content.finish()
    size = KeyType.ED25519.facts.size_bytes
    if len(seed) != size:
        raise _damaged(
            f"an Ed25519 key has {size} bytes, and this one has {len(seed)}; copy the file again, or make a new key"
        )
    return Checked(ed25519.Ed25519PrivateKey.from_private_bytes(seed), weak_keys.seed_weaknesses(seed))


# --- elements ---


def _integer(reader: DerReader) -> int:
    """A non-negative INTEGER in its shortest form."""
    content = reader.content(INTEGER)
    if not content or content[0] & 0x80:
        raise reader.mismatch("an INTEGER that is empty or negative")
    if len(content) > 1 and content[0] == 0 and content[1] < 0x80:
        raise reader.mismatch("an INTEGER that is not in its shortest form")
    return int.from_bytes(content)


def _bits(reader: DerReader, content: bytes) -> bytes:
    """The bytes of a BIT STRING without unused bits."""
    if not content or content[0]:
        raise reader.mismatch("a public key that is not made of whole bytes")
    return content[1:]
