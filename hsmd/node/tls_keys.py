"""The key of a node's certificate: a private key in its files, a reference to one behind an agent, or only the public half."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
)

from hsmd.algorithms import KeyType, key_type_of
from hsmd.anchors.problems import CertificatesInvalid
from hsmd.client import keyref
from hsmd.errors import BadRequest

_CURVES: dict[KeyType, type[ec.EllipticCurve]] = {KeyType.P256: ec.SECP256R1, KeyType.P384: ec.SECP384R1}
_EXPONENT = 65_537
_REFERENCE = f"BEGIN {keyref.LABEL}".encode()


@dataclass(frozen=True, slots=True)
class TlsKey:
    """`public` is its SubjectPublicKeyInfo in DER; `pem` what servers load: PKCS#8 without encryption, or a key reference.

    `pem` is empty for a key in a token of the node's: the server is told of it by its own configuration.
    """

    pem: bytes = field(repr=False)
    public: bytes

    @classmethod
    def generate(cls, key_type: KeyType) -> TlsKey:
        """A new key: P-256, P-384, or RSA."""
        curve = _CURVES.get(key_type)
        private: Any = (
            ec.generate_private_key(curve())
            if curve is not None
            else rsa.generate_private_key(_EXPONENT, key_type.facts.bits)
        )
        return cls(
            private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            public_half(private.public_key()),
        )

    @classmethod
    def read(cls, pem: bytes) -> TlsKey:
        """The key, or reference, in a file. Raises CertificatesInvalid, with nothing of the file in it."""
        if _REFERENCE in pem:
            return cls(pem, _reference(pem))
        return cls(pem, public_half(_private(pem).public_key()))

    @property
    def key_type(self) -> KeyType | None:
        """Its type; None for one that the configuration cannot name."""
        return key_type_of(load_der_public_key(self.public))

    def request(self) -> str:
        """A certificate request (RFC 2986) in PEM, which proves possession and asks for no name: the daemon has the names."""
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        return builder.sign(_private(self.pem), hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def public_half(key: Any) -> bytes:
    """The SubjectPublicKeyInfo of a public key in DER."""
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def _reference(pem: bytes) -> bytes:
    try:
        return keyref.decode(pem.decode("ascii")).public_key
    except (BadRequest, UnicodeDecodeError):
        raise CertificatesInvalid("the key reference is damaged; it is written again") from None


def _private(pem: bytes) -> Any:
    try:
        return load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise CertificatesInvalid("the private key file is damaged") from None
