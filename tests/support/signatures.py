"""Verification of signatures, independent of hsmd's own."""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmd.algorithms import SCHEMES, Padding, SignatureScheme

HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}


def verify(spki: bytes, scheme: SignatureScheme, signature: bytes, message: bytes) -> None:
    """Verify a signature of `message` with a DER SubjectPublicKeyInfo. Raises InvalidSignature."""
    public_key = load_der_public_key(spki)
    facts = SCHEMES[scheme]
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        public_key.verify(signature, message)
    elif isinstance(public_key, ec.EllipticCurvePublicKey):
        public_key.verify(signature, message, ec.ECDSA(HASHES[facts.hash]))
    else:
        assert isinstance(public_key, rsa.RSAPublicKey)
        algorithm = HASHES[facts.hash]
        if facts.padding is Padding.PKCS1:
            public_key.verify(signature, message, padding.PKCS1v15(), algorithm)
        else:
            # The salt is as long as the hash (RFC 8446, section 4.2.3).
            public_key.verify(
                signature, message, padding.PSS(padding.MGF1(algorithm), facts.hash_bytes), algorithm
            )
