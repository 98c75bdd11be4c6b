"""Remote private keys: objects with the interfaces of `cryptography` whose signatures are made by the token.

They can be used wherever a private key of `cryptography` is only used to sign: `x509` builders, JOSE libraries, asyncssh.
"""

from __future__ import annotations

import hashlib
from typing import Any, NoReturn, Protocol

from cryptography.exceptions import UnsupportedAlgorithm, _Reasons
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from hsmd.algorithms import SCHEMES, Family, Padding, SignatureScheme, key_type_of
from hsmd.errors import BadRequest
from hsmd.purposes import Purpose

DEFAULT_TIMEOUT_S = 5.0

_SCHEME_OF = {(facts.family, facts.padding, facts.hash): scheme for scheme, facts in SCHEMES.items()}


class KeyUser(Protocol):
    """Requests the signatures: a `Client`, or another object with its `use_key`."""

    def use_key(self, key: bytes, purpose: int, scheme: int, data: bytes, *, timeout_s: float) -> bytes: ...


class RemotePrivateKey:
    """The common part of the three kinds of remote keys; `for_key` makes them."""

    def __init__(
        self, user: KeyUser, name: str, public: PublicKeyTypes, purpose: Purpose, timeout_s: float
    ) -> None:
        der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self._user = user
        self._name = name
        self._public: Any = public
        self._digest = hashlib.sha256(der).digest()
        self._purpose = purpose
        self._timeout_s = timeout_s

    @staticmethod
    def for_key(
        user: KeyUser,
        public_key: bytes,
        *,
        name: str = "",
        purpose: Purpose = Purpose.SIGN_MESSAGE,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> RemoteRSAPrivateKey | RemoteECPrivateKey | RemoteEd25519PrivateKey:
        """The remote private key for `public_key` (DER SubjectPublicKeyInfo), used through `user`.

        `purpose` must be granted to the client. With SIGN_MESSAGE the daemon hashes, and digests made by the caller
        (`Prehashed`) need the grant SIGN_DIGEST; with SIGN_DIGEST this object hashes; with a TLS purpose the data must have the
        form which that purpose prescribes. Raises BadRequest if hsmd does not support keys of this type.
        """
        try:
            public = load_der_public_key(public_key)
        except (ValueError, UnsupportedAlgorithm):
            raise BadRequest("public_key: not a readable DER SubjectPublicKeyInfo") from None
        key_type = key_type_of(public)
        if key_type is None:
            raise BadRequest(
                "public_key: hsmd supports RSA 2048 to 4096, P-256, P-384, P-521 and Ed25519 keys"
            )
        return _CLASSES[key_type.facts.family](user, name, public, purpose, timeout_s)

    def __repr__(self) -> str:
        key_type = key_type_of(self._public)
        return f"<remote private key {self._name!r}, {key_type.value if key_type else 'unknown'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a remote private key cannot be pickled; make a new one from the public key")

    def private_bytes(self, *_: object, **__: object) -> NoReturn:
        """Raises UnsupportedAlgorithm: the private key does not leave the token."""
        _unsupported(
            "the private key is in the token and cannot be exported", _Reasons.UNSUPPORTED_SERIALIZATION
        )

    def _use(self, purpose: Purpose, scheme: int, data: bytes) -> bytes:
        return self._user.use_key(self._digest, purpose, scheme, bytes(data), timeout_s=self._timeout_s)

    def _sign_hashed(self, family: Family, pad: Padding, data: bytes, algorithm: object) -> bytes:
        """A signature over data or over its digest, depending on purpose and algorithm."""
        prehashed = isinstance(algorithm, Prehashed)
        inner = algorithm._algorithm if isinstance(algorithm, Prehashed) else algorithm
        if not isinstance(inner, hashes.HashAlgorithm):
            raise TypeError("the algorithm must be a hash, or Prehashed with one")
        scheme = _SCHEME_OF.get((family, pad, inner.name))
        if scheme is None:
            _unsupported(
                f"signatures with {inner.name} are not supported; use SHA-256, SHA-384 or SHA-512",
                _Reasons.UNSUPPORTED_HASH,
            )
        if prehashed or self._purpose is Purpose.SIGN_DIGEST:
            return self._sign_digest(scheme, data if prehashed else hashlib.new(inner.name, data).digest())
        return self._use(self._purpose, scheme, data)

    def _sign_digest(self, scheme: SignatureScheme, digest: bytes) -> bytes:
        if self._purpose not in (Purpose.SIGN_MESSAGE, Purpose.SIGN_DIGEST):
            _unsupported(
                f"a digest cannot be signed for the purpose {self._purpose.label}", _Reasons.UNSUPPORTED_HASH
            )
        if len(digest) != scheme.facts.hash_bytes:
            raise ValueError(f"the digest has {len(digest)} bytes instead of {scheme.facts.hash_bytes}")
        return self._use(Purpose.SIGN_DIGEST, scheme, digest)


class RemoteRSAPrivateKey(RemotePrivateKey, rsa.RSAPrivateKey):
    """An RSA key in the token: PKCS#1 v1.5 and PSS signatures (RFC 8017)."""

    @property
    def key_size(self) -> int:
        """Bits of the modulus."""
        return int(self._public.key_size)

    def public_key(self) -> rsa.RSAPublicKey:
        """The public half."""
        return self._public  # type: ignore[no-any-return]

    def sign(self, data: bytes, padding: object, algorithm: object) -> bytes:
        """A signature. PSS salts must be as long as the digest, with MGF1 over the same hash.

        Raises UnsupportedAlgorithm for an algorithm that hsmd does not support, HsmdError if the request fails.
        """
        return self._sign_hashed(Family.RSA, _padding_of(padding, algorithm), data, algorithm)

    def tls12_premaster(self, encrypted: bytes) -> bytes:
        """The 48-byte premaster secret in an EncryptedPreMasterSecret without its length prefix (RFC 5246, section 7.4.7.1).

        Needs the grant `tls12-rsa-premaster`. For a malformed one, 48 pseudo-random bytes are returned. Raises HsmdError.
        """
        return self._use(Purpose.TLS12_RSA_PREMASTER, 0, encrypted)

    def decrypt(self, ciphertext: bytes, padding: object) -> NoReturn:
        """Raises UnsupportedAlgorithm: a signing key is never used to decrypt."""
        _unsupported("remote keys do not decrypt; see tls12_premaster", _Reasons.UNSUPPORTED_PADDING)

    def private_numbers(self) -> NoReturn:
        """Raises UnsupportedAlgorithm."""
        self.private_bytes()

    def __copy__(self) -> RemoteRSAPrivateKey:
        return self

    def __deepcopy__(self, memo: object) -> RemoteRSAPrivateKey:
        return self


class RemoteECPrivateKey(RemotePrivateKey, ec.EllipticCurvePrivateKey):
    """A P-256, P-384 or P-521 key in the token: ECDSA signatures as DER Ecdsa-Sig-Value."""

    @property
    def curve(self) -> ec.EllipticCurve:
        """The curve."""
        return self._public.curve  # type: ignore[no-any-return]

    @property
    def key_size(self) -> int:
        """Bits of the curve."""
        return int(self._public.key_size)

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""
        return self._public  # type: ignore[no-any-return]

    def sign(self, data: bytes, signature_algorithm: object) -> bytes:  # type: ignore[override]
        """A signature. Raises UnsupportedAlgorithm for an unsupported algorithm, HsmdError if the request fails."""
        if not isinstance(signature_algorithm, ec.ECDSA):
            raise TypeError("the signature algorithm must be ec.ECDSA")
        if signature_algorithm.deterministic_signing:
            _unsupported(
                "the token generates the nonces; deterministic ECDSA is not supported",
                _Reasons.UNSUPPORTED_PUBLIC_KEY_ALGORITHM,
            )
        return self._sign_hashed(Family.EC, Padding.NONE, data, signature_algorithm.algorithm)

    def exchange(self, algorithm: object, peer_public_key: object) -> NoReturn:
        """Raises UnsupportedAlgorithm: a signing key is never used for ECDH."""
        _unsupported("remote keys do not support key exchange", _Reasons.UNSUPPORTED_EXCHANGE_ALGORITHM)

    def private_numbers(self) -> NoReturn:
        """Raises UnsupportedAlgorithm."""
        self.private_bytes()

    def __copy__(self) -> RemoteECPrivateKey:
        return self

    def __deepcopy__(self, memo: object) -> RemoteECPrivateKey:
        return self


class RemoteEd25519PrivateKey(RemotePrivateKey, ed25519.Ed25519PrivateKey):
    """An Ed25519 key in the token (RFC 8032)."""

    def public_key(self) -> ed25519.Ed25519PublicKey:
        """The public half."""
        return self._public  # type: ignore[no-any-return]

    def sign(self, data: bytes) -> bytes:  # type: ignore[override]
        """A signature. Raises HsmdError if the request fails."""
        if self._purpose is Purpose.SIGN_DIGEST:
            _unsupported(
                "Ed25519 signs messages, not digests; the key needs sign-message", _Reasons.UNSUPPORTED_HASH
            )
        return self._use(self._purpose, SignatureScheme.ED25519, data)

    def private_bytes_raw(self) -> NoReturn:
        """Raises UnsupportedAlgorithm."""
        self.private_bytes()

    def __copy__(self) -> RemoteEd25519PrivateKey:
        return self

    def __deepcopy__(self, memo: object) -> RemoteEd25519PrivateKey:
        return self


_CLASSES: dict[Family, type[RemoteRSAPrivateKey | RemoteECPrivateKey | RemoteEd25519PrivateKey]] = {
    Family.RSA: RemoteRSAPrivateKey,
    Family.EC: RemoteECPrivateKey,
    Family.ED25519: RemoteEd25519PrivateKey,
}


def _padding_of(given: object, algorithm: object) -> Padding:
    if isinstance(given, padding.PKCS1v15):
        return Padding.PKCS1
    if not isinstance(given, padding.PSS):
        raise TypeError("the padding must be PKCS1v15 or PSS")
    inner = algorithm._algorithm if isinstance(algorithm, Prehashed) else algorithm
    digest_bytes = getattr(inner, "digest_size", None)
    if given._salt_length is not padding.PSS.DIGEST_LENGTH and given._salt_length != digest_bytes:
        _unsupported(
            "PSS salts must be as long as the digest; pass PSS.DIGEST_LENGTH", _Reasons.UNSUPPORTED_PADDING
        )
    if getattr(given._mgf._algorithm, "name", None) != getattr(inner, "name", None):
        _unsupported("MGF1 must use the hash of the signature", _Reasons.UNSUPPORTED_MGF)
    return Padding.PSS


def _unsupported(why: str, reason: _Reasons) -> NoReturn:
    raise UnsupportedAlgorithm(why, reason)
