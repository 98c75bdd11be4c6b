"""A temporary certificate authority for scripts/quickstart and scripts/tour; its key is only in memory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = timedelta(days=30)


class Authority:
    """Issues certificates for localhost; writes its own certificate to `file` when it issues the first one."""

    def __init__(
        self, file: Path, *, before: timedelta = timedelta(hours=1), lifetime: timedelta = LIFETIME
    ) -> None:
        """Its certificates are valid from `before` before now on, and for `lifetime` from now on."""
        self.file = file
        self._before = before
        self._lifetime = lifetime
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("hsmd quickstart CA")
        self._now = datetime.now(UTC)

    def sign_request(self, pem: bytes) -> bytes:
        """The chain for a certificate request of a signing key."""
        request = x509.load_pem_x509_csr(pem)
        if not request.is_signature_valid:
            raise ValueError("the signature of the certificate request does not verify")
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return self._issue(request.public_key(), _name("localhost"), names, _usage(digital_signature=True))

    def certify(self, spki: bytes, name: str) -> bytes:
        """The chain for the public key (DER) of a decryption key."""
        names = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
        )
        return self._issue(load_der_public_key(spki), _name(name), names, _usage(key_encipherment=True))

    def _issue(
        self,
        public_key: PublicKeyTypes,
        subject: x509.Name,
        names: x509.SubjectAlternativeName,
        usage: x509.KeyUsage,
    ) -> bytes:
        if not self.file.exists():
            self.file.write_bytes(self._own())
        leaf = (
            self._builder(subject, public_key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(names, critical=False)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return leaf.public_bytes(Encoding.PEM) + self.file.read_bytes()

    def _own(self) -> bytes:
        certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(Encoding.PEM)

    def _builder(self, subject: x509.Name, public_key: PublicKeyTypes) -> x509.CertificateBuilder:
        if not isinstance(
            public_key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
        ):
            raise TypeError(f"no certificates for {type(public_key).__name__}")
        identifier = x509.SubjectKeyIdentifier.from_public_key(public_key)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - self._before)
            .not_valid_after(self._now + self._lifetime)
            .add_extension(identifier, critical=False)
            .add_extension(issuer, critical=False)
        )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _usage(**wanted: bool) -> x509.KeyUsage:
    all_of_them = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**dict.fromkeys(all_of_them, False) | wanted)
