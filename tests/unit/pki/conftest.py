"""Software keys in place of keys in a token, and the openssl command that checks what they signed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmd.algorithms import Family, KeyType, Padding, SignatureScheme
from hsmd.daemon.pki import Unsigned

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
_CURVES = {KeyType.P256: ec.SECP256R1(), KeyType.P384: ec.SECP384R1(), KeyType.P521: ec.SECP521R1()}
_HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}


@dataclass(frozen=True, slots=True)
class RemoteKey:
    """A key of which the code under test gets only the public half and signatures."""

    private: PrivateKeyTypes

    @property
    def public(self) -> PublicKeyTypes:
        return self.private.public_key()

    @property
    def spki(self) -> bytes:
        return self.public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, scheme: SignatureScheme, data: bytes) -> bytes:
        facts = scheme.facts
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            return self.private.sign(data)
        if isinstance(self.private, ec.EllipticCurvePrivateKey):
            return self.private.sign(data, ec.ECDSA(_HASHES[facts.hash]))
        assert isinstance(self.private, rsa.RSAPrivateKey)
        if facts.padding is Padding.PSS:
            pss = padding.PSS(padding.MGF1(_HASHES[facts.hash]), facts.hash_bytes)
            return self.private.sign(data, pss, _HASHES[facts.hash])
        return self.private.sign(data, padding.PKCS1v15(), _HASHES[facts.hash])

    def finish(self, unsigned: Unsigned[Any], scheme: SignatureScheme) -> str:
        """The document in PEM, signed."""
        return unsigned.signed_pem(self.sign(scheme, unsigned.to_be_signed))


@cache
def remote_key(key_type: KeyType, number: int) -> RemoteKey:
    """The same key for the same arguments, because generating RSA keys takes time."""
    facts = key_type.facts
    if facts.family is Family.RSA:
        return RemoteKey(rsa.generate_private_key(65537, facts.bits))
    if facts.family is Family.EC:
        return RemoteKey(ec.generate_private_key(_CURVES[key_type]))
    return RemoteKey(ed25519.Ed25519PrivateKey.generate())


@pytest.fixture
def key() -> Callable[..., RemoteKey]:
    return lambda key_type, number=0: remote_key(key_type, number)


@pytest.fixture
def openssl(tmp_path: Path) -> Callable[..., str]:
    """Runs openssl with a document on standard input and returns its output; fails unless openssl exits with 0."""

    def run(*arguments: str, document: str | bytes = b"") -> str:
        data = document.encode() if isinstance(document, str) else document
        done = subprocess.run(
            ["openssl", *arguments], input=data, capture_output=True, cwd=tmp_path, timeout=30, check=False
        )
        output = (done.stdout + done.stderr).decode()
        assert done.returncode == 0, output
        return output

    return run


@pytest.fixture
def now() -> datetime:
    return NOW
