"""Two generations of a CA with keys from fixed seeds, so that certificates are the same bytes in each run."""

from __future__ import annotations

from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from hsmd.anchors.root_update import RootUpdate

NOW = datetime(2027, 3, 1)  # noqa: DTZ001 - the builder of `cryptography` takes UTC without a zone
OLD, NEW, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2, 3))
_USAGE = {
    "digital_signature": False, "content_commitment": False, "key_encipherment": False, "data_encipherment": False,
    "key_agreement": False, "key_cert_sign": True, "crl_sign": True, "encipher_only": False, "decipher_only": False,
}  # fmt: skip
YES = x509.KeyUsage(**_USAGE)
NO = x509.KeyUsage(**_USAGE | {"key_cert_sign": False})
NAMES = x509.NameConstraints([x509.DNSName("example.com")], [x509.DNSName("secret.example.com")])


def name(key: Ed25519PrivateKey) -> x509.Name:
    """The name of a generation."""
    number = (OLD, NEW, OTHER).index(key) + 1
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Example CA {number}")])


def identifier(key: Ed25519PrivateKey) -> x509.SubjectKeyIdentifier:
    """The identifier of a key."""
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key())


def extensions(subject: Ed25519PrivateKey, issuer: Ed25519PrivateKey) -> dict[str, x509.ExtensionType]:
    """Those of a certificate of a CA, by a word for tests to change or remove them."""
    return {
        "constraints": x509.BasicConstraints(ca=True, path_length=2),
        "usage": YES,
        "names": NAMES,
        "subject": identifier(subject),
        "issuer": x509.AuthorityKeyIdentifier(identifier(issuer).digest, None, None),
    }


def certificate(
    of: Ed25519PrivateKey,
    by: Ed25519PrivateKey,
    *,
    begins: int = -10,
    ends: int = 100,
    serial: int = 1,
    subject_name: x509.Name | None = None,
    signer: Any = None,
    algorithm: Any = None,
    **changed: x509.ExtensionType | None,
) -> x509.Certificate:
    """A certificate of a CA; `begins` and `ends` are days from NOW, `changed` replaces extensions, or removes them."""
    builder = x509.CertificateBuilder(
        name(by),
        subject_name or name(of),
        of.public_key(),
        serial,
        NOW + timedelta(days=begins),
        NOW + timedelta(days=ends),
    )
    for word, value in (extensions(of, by) | changed).items():
        if value is not None:
            builder = builder.add_extension(value, critical=word not in ("subject", "issuer", "commitment"))
    return builder.sign(signer or by, algorithm)


def commitment(to: Ed25519PrivateKey) -> x509.UnrecognizedExtension:
    """hashOfRootKey (RFC 8649, section 3) of the key that follows."""
    spki = to.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    hashed = bytes.fromhex("302f300b06096086480165030402010420") + sha256(spki).digest()
    return x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.51483.2.1"), hashed)


OLD_WITH_OLD = certificate(OLD, OLD, begins=-900, ends=100)
NEW_WITH_NEW = certificate(NEW, NEW, ends=1000)
NEW_WITH_OLD = certificate(NEW, OLD, serial=2)
OLD_WITH_NEW = certificate(OLD, NEW, begins=-900, ends=100, serial=3)
UNCOMMITTED = certificate(OLD, OLD, begins=-950)
COMMITTED = certificate(OLD, OLD, begins=-950, commitment=commitment(NEW))
"""The old CA as an anchor, without and with a commitment to the new key."""
OTHER_ROOT = certificate(OTHER, OTHER)
UPDATE = RootUpdate(NEW_WITH_NEW, NEW_WITH_OLD, OLD_WITH_NEW)
