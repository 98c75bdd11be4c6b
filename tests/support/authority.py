"""A certificate authority for tests; it also certifies keys that cannot sign a request."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


class Authority:
    """A root CA; its certificate is in `file`."""

    def __init__(self, directory: Path, name: str = "hsmd test authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self.certificate = self._build(
            self._name,
            self._key.public_key(),
            dt.timedelta(days=90),
            [
                _is_ca(True),
                *_usage(ca=True),
                (x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), False),
            ],
        )
        self.file = directory / "authority.pem"
        self.file.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        self.file.chmod(0o644)

    def issue(
        self,
        public_key: Any,
        *names: str,
        decrypts: bool = False,
        client: bool = False,
        begun: dt.timedelta = dt.timedelta(hours=1),
        left: dt.timedelta = dt.timedelta(days=60),
    ) -> str:
        """A certificate in PEM for a TLS server (or client) with these DNS names; `decrypts`: only for RSA key exchange."""
        purpose = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        extensions = [
            _is_ca(False),
            *_usage(decrypts=decrypts),
            (x509.ExtendedKeyUsage([purpose]), False),
            (x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False),
            (x509.SubjectKeyIdentifier.from_public_key(public_key), False),
        ]
        made = self._build(_name(names[0]), public_key, left, extensions, begun)
        return made.public_bytes(Encoding.PEM).decode()

    def revocation_list(self, *certificates: str, made: dt.timedelta = dt.timedelta(hours=1)) -> str:
        """A list in PEM with these certificates, which are in PEM; it was made this long ago."""
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._name)
        builder = builder.last_update(now - made).next_update(now + dt.timedelta(days=1))
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        for pem in certificates:
            serial = x509.load_pem_x509_certificate(pem.encode()).serial_number
            revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            builder = builder.add_revoked_certificate(revoked)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()

    def _build(
        self,
        subject: x509.Name,
        public_key: Any,
        term: dt.timedelta,
        extensions: list[tuple[x509.ExtensionType, bool]],
        begun: dt.timedelta = dt.timedelta(hours=1),
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - begun)
            .not_valid_after(now + term)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._key, hashes.SHA256())


def private_pem(key: Any) -> bytes:
    """A private key in the PEM form that servers load."""
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _is_ca(ca: bool) -> tuple[x509.ExtensionType, bool]:
    return x509.BasicConstraints(ca=ca, path_length=None), True


def _usage(*, ca: bool = False, decrypts: bool = False) -> list[tuple[x509.ExtensionType, bool]]:
    usage = x509.KeyUsage(
        digital_signature=not ca and not decrypts,
        content_commitment=False,
        key_encipherment=decrypts,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
    return [(usage, True)]
