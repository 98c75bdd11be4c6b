"""Signing what the x509 builders of `cryptography` make with a key that is elsewhere, in two passes.

A builder takes a private-key object and wants the signature at once, and the key of a token answers later, in another process.
So a document is built twice: the first pass takes note of the bytes to be signed, and the second one, when the signature is
there, returns it. Both passes give the same bytes, because every field is fixed before the first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from hsmd.algorithms import Family, Padding, SignatureScheme
from hsmd.errors import TokenFailure

_HASHES: dict[str, hashes.SHA256 | hashes.SHA384 | hashes.SHA512] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_MISSING = b"\0"
"""What stands for the signature in the first pass."""

Document_co = TypeVar(
    "Document_co",
    bound=x509.Certificate | x509.CertificateSigningRequest | x509.CertificateRevocationList,
    covariant=True,
)


class Builder(Protocol[Document_co]):
    """The one method of the three builders that is needed here."""

    def sign(
        self, private_key: Any, algorithm: Any, backend: Any = None, *, rsa_padding: Any = None
    ) -> Document_co:
        """Build the document and sign it."""


class Unsigned(Generic[Document_co]):
    """A document of which everything but the signature is there."""

    def __init__(self, builder: Builder[Document_co], issuer_spki: bytes, scheme: SignatureScheme) -> None:
        """`builder` has every field; the key `issuer_spki` (DER SubjectPublicKeyInfo) signs with `scheme`.

        Raises ValueError for fields that the builder refuses.
        """
        self._builder = builder
        self._scheme = scheme
        self._public_key = load_der_public_key(issuer_spki)
        signer = _signer(self._public_key, _MISSING)
        self._built_with(signer)
        self.to_be_signed = signer.seen
        """The bytes that the key has to sign: TBSCertificate, CertificationRequestInfo or TBSCertList, in DER."""

    def signed(self, signature: bytes) -> Document_co:
        """The document. Raises TokenFailure if the signature is not that of the key for these bytes."""
        try:
            _verify(self._public_key, self._scheme, signature, self.to_be_signed)
        except InvalidSignature:
            raise TokenFailure(
                detail="the signature of a certificate, request or list did not verify"
            ) from None
        return self._built_with(_signer(self._public_key, signature))

    def signed_pem(self, signature: bytes) -> str:
        """The document in PEM. Raises TokenFailure as `signed` does."""
        return self.signed(signature).public_bytes(Encoding.PEM).decode()

    def _built_with(self, signer: _Signer) -> Document_co:
        facts = self._scheme.facts
        algorithm = _HASHES.get(facts.hash)
        return self._builder.sign(signer, algorithm, rsa_padding=_rsa_padding(self._scheme))


class _Signer:
    """A private-key object that returns one signature, and knows what it was asked to sign."""

    def __init__(self, public_key: PublicKeyTypes, signature: bytes) -> None:
        self._public_key = public_key
        self._signature = signature
        self.seen = b""

    def public_key(self) -> PublicKeyTypes:
        """The key whose signature it is: a request holds it."""
        return self._public_key

    def sign(self, data: bytes, *_: object) -> bytes:
        """Take note of `data`; padding and hash are those of the scheme."""
        self.seen = bytes(data)
        return self._signature


class _RsaSigner(_Signer):
    pass


class _EcSigner(_Signer):
    pass


class _Ed25519Signer(_Signer):
    pass


rsa.RSAPrivateKey.register(_RsaSigner)
ec.EllipticCurvePrivateKey.register(_EcSigner)
ed25519.Ed25519PrivateKey.register(_Ed25519Signer)
_SIGNERS: tuple[tuple[type, type[_Signer]], ...] = (
    (rsa.RSAPublicKey, _RsaSigner),
    (ec.EllipticCurvePublicKey, _EcSigner),
    (ed25519.Ed25519PublicKey, _Ed25519Signer),
)


def _signer(public_key: PublicKeyTypes, signature: bytes) -> _Signer:
    for kind, signer in _SIGNERS:
        if isinstance(public_key, kind):
            return signer(public_key, signature)
    raise TypeError("keys of this kind sign nothing here")


def _rsa_padding(scheme: SignatureScheme) -> padding.PKCS1v15 | padding.PSS | None:
    facts = scheme.facts
    if facts.family is not Family.RSA:
        return None
    if facts.padding is Padding.PSS:
        return padding.PSS(padding.MGF1(_HASHES[facts.hash]), facts.hash_bytes)
    return padding.PKCS1v15()


def _verify(public_key: PublicKeyTypes, scheme: SignatureScheme, signature: bytes, data: bytes) -> None:
    facts = scheme.facts
    verify: Callable[..., None] = public_key.verify  # type: ignore[union-attr]
    match facts.family:
        case Family.RSA:
            verify(signature, data, _rsa_padding(scheme), _HASHES[facts.hash])
        case Family.EC:
            verify(signature, data, ec.ECDSA(_HASHES[facts.hash]))
        case Family.ED25519:
            verify(signature, data)
