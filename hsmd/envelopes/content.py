"""What an envelope may contain: a private key as PKCS#8, checked against its public half, or a symmetric key."""

from __future__ import annotations

from hashlib import sha256

from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from hsmd.envelopes.header import Header, Kind
from hsmd.errors import EnvelopeInvalid

MAX_CONTENT_BYTES = 8_192
"""Enough for PKCS#8 of an RSA key of 8192 bits."""
SECRET_KEY_BYTES = range(16, 65, 8)
"""Lengths of symmetric keys. SoftHSM 2.6.1 pads others to the next multiple of 8, and the length is lost."""
MAX_TOKEN_PADDING = 7
MAX_RSA_BITS = 8_192
_ALGORITHMS = tuple(
    bytes.fromhex(oid)
    for oid in (
        "06092a864886f70d010101",  # rsaEncryption
        "06072a8648ce3d0201",  # id-ecPublicKey
        "06032b6570",  # id-Ed25519
        "06032b656e",  # id-X25519
    )
)
"""Kinds of private keys that envelopes contain: object identifiers in DER."""


def spki_digest(pkcs8: bytes) -> bytes | None:
    """SHA-256 of the public half of a private key, as SubjectPublicKeyInfo.

    None if this is no private key of a kind in `_ALGORITHMS`, or one whose private half does not go with its public one.
    """
    if len(pkcs8) > MAX_CONTENT_BYTES or not _is_private_key_info(pkcs8):
        return None
    try:
        key = load_der_private_key(pkcs8, password=None, unsafe_skip_rsa_key_validation=True)
        if isinstance(key, rsa.RSAPrivateKey) and not _is_consistent(key):
            return None
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError):
        return None
    return sha256(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def _is_consistent(key: rsa.RSAPrivateKey) -> bool:
    """Whether an RSA key signs under its own public key.

    The validation of the library also tests the primes, which takes 0.1 s for an honest key of 2048 bits and 20 s for a
    hostile one of 8 kB. Numbers that belong together, and a signature that verifies, show as much, in bounded time.
    """
    numbers = key.private_numbers()
    n, p, q, d = numbers.public_numbers.n, numbers.p, numbers.q, numbers.d
    if key.key_size > MAX_RSA_BITS or p < 3 or q < 3 or p * q != n:
        return False
    if numbers.dmp1 != d % (p - 1) or numbers.dmq1 != d % (q - 1) or numbers.iqmp * q % p != 1:
        return False
    signature = key.sign(b"", padding.PKCS1v15(), hashes.SHA256())
    try:
        key.public_key().verify(signature, b"", padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        return False
    return True


def unsealed(header: Header, content: bytes) -> bytes:
    """The key that was sealed: what came out of an envelope, without a token's padding, checked against the header.

    Raises EnvelopeInvalid with its default text, whatever is wrong.
    """
    if header.kind is Kind.SECRET_KEY:
        if len(content) not in SECRET_KEY_BYTES:
            raise EnvelopeInvalid
        return content
    pkcs8 = without_token_padding(content)
    if spki_digest(pkcs8) != header.spki:
        raise EnvelopeInvalid
    return pkcs8


def without_token_padding(content: bytes) -> bytes:
    """PKCS#8 without the zeros that a token added behind it. Raises EnvelopeInvalid unless it is nothing but that.

    SoftHSM 2.6.1 fills a private key up to a multiple of 8 bytes before it applies RFC 5649, so the length in the
    wrapped key is that of the filled one. The end of the key is where its own DER says; at most 7 zeros may follow.
    """
    _, end = _sequence(content)
    padding = content[end:]
    if not 0 < end <= len(content) or len(padding) > MAX_TOKEN_PADDING or any(padding):
        raise EnvelopeInvalid
    return content[:end]


def _sequence(der: bytes) -> tuple[int, int]:
    """Where the content of the SEQUENCE that `der` begins with starts and ends (X.690, section 10.1); zeros for none."""
    if len(der) < 2 or der[0] != 0x30:
        return 0, 0
    if der[1] < 0x80:
        return 2, 2 + der[1]
    octets = der[1] - 0x80
    length = int.from_bytes(der[2 : 2 + octets], "big")
    shortest = {1: 0x80, 2: 0x100}.get(octets)
    if shortest is None or length < shortest:
        return 0, 0
    return 2 + octets, 2 + octets + length


def _is_private_key_info(der: bytes) -> bool:
    """Whether this is PrivateKeyInfo (RFC 5958): a version (0 or 1), then an AlgorithmIdentifier of `_ALGORITHMS`.

    The DER loader of `cryptography` also takes PKCS#1 and SEC 1, which no token unwraps, and other kinds of keys, some of
    which take it long to check.
    """
    start, end = _sequence(der)
    if end != len(der) or der[start : start + 3] not in (b"\x02\x01\x00", b"\x02\x01\x01"):
        return False
    algorithm = der[start + 3 :]
    identifier, _ = _sequence(algorithm)
    return identifier > 0 and algorithm[identifier:].startswith(_ALGORITHMS)
