"""Keys and statements of an owner's vault, of every suite."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mlkem, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmd.envelopes.content import spki_digest
from hsmd.envelopes.header import Kind, Suite
from hsmd.envelopes.recipients import HybridPrivateKey, HybridPublicKey, PrivateKey, SymmetricKey
from hsmd.envelopes.sealing import seal_private_key
from hsmd.envelopes.vault import signing
from hsmd.envelopes.vault.about import deposit_about
from hsmd.envelopes.vault.management_keys import (
    ManagementKeyStatement,
    SignedManagementKey,
    WrappingSuite,
)
from hsmd.envelopes.vault.records import RecordStatement
from hsmd.envelopes.vault.signing import SigningPrivateKey
from tests.support.envelopes import contents, rsa_key

OWNER, RECORD = "anna", "web"
STATED_AT = "2026-03-01T12:00:00Z"


def spki(key: object) -> bytes:
    """The SubjectPublicKeyInfo of a public key."""
    if isinstance(key, HybridPublicKey):
        return key.spki()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]


def signing_key(name: str = "p256", number: int = 0) -> SigningPrivateKey:
    """A signing key: `p256`, `ed25519` or `rsa`; another number is another key."""
    return _signing_key(name, number)


@cache
def _signing_key(name: str, number: int) -> SigningPrivateKey:
    if name == "p256":
        return ec.generate_private_key(ec.SECP256R1())
    if name == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa_key(100 + number, 3072)


@dataclass(frozen=True, slots=True)
class Owner:
    """An owner's management key."""

    wrapping: PrivateKey
    signing: SigningPrivateKey
    statement: ManagementKeyStatement

    def signed(self, by: SigningPrivateKey | None = None) -> SignedManagementKey:
        """The statement, signed; with the succession by the key before, if it is given."""
        text = self.statement.encode()
        succession = signing.sign(by, signing.Kind.MANAGEMENT_KEY, text) if by else b""
        own = signing.sign(self.signing, signing.Kind.MANAGEMENT_KEY, text)
        return SignedManagementKey(text, own, succession)


def owner(suite: WrappingSuite = WrappingSuite.P256, by: str = "p256", number: int = 1) -> Owner:
    """The management key with this number; each but the first continues the one before."""
    return _owner(suite, by, number)


@cache
def _owner(suite: WrappingSuite, by: str, number: int) -> Owner:
    wrapping, sign = wrapping_key(suite, number), signing_key(by, number)
    public = wrapping.public_key()
    shown = public.check_value if isinstance(public, SymmetricKey) else spki(public)
    previous = owner(suite, by, number - 1).statement.digest.hex() if number > 1 else ""
    return Owner(
        wrapping,
        sign,
        ManagementKeyStatement(OWNER, number, suite, shown, spki(sign.public_key()), previous, STATED_AT),
    )


@cache
def wrapping_key(suite: WrappingSuite, number: int) -> PrivateKey:
    """A wrapping key; another number is another key."""
    if suite is WrappingSuite.RSA:
        return rsa_key(200 + number, 3072)
    if suite is WrappingSuite.P256:
        return ec.generate_private_key(ec.SECP256R1())
    if suite is WrappingSuite.X25519:
        return x25519.X25519PrivateKey.generate()
    if suite is WrappingSuite.HYBRID:
        return HybridPrivateKey(mlkem.MLKEM768PrivateKey.generate(), x25519.X25519PrivateKey.generate())
    return SymmetricKey(os.urandom(32))


@cache
def deposit(suite: Suite, of: WrappingSuite) -> tuple[bytes, RecordStatement]:
    """An envelope with a P-256 key to the owner's management key, and the statement about it."""
    who = owner(of)
    pkcs8 = contents()["P-256"]
    about = deposit_about(OWNER, RECORD, 1)
    encoded = seal_private_key(pkcs8, who.wrapping.public_key(), suite, about).encode()
    digest = spki_digest(pkcs8)
    assert digest is not None
    return encoded, RecordStatement(
        owner=OWNER,
        record=RECORD,
        version=1,
        number=1,
        previous="",
        stated_at=STATED_AT,
        kind=Kind.PRIVATE_KEY,
        key=digest.hex(),
        suite=suite,
        envelope=sha256(encoded).hexdigest(),
        management=who.statement.digest.hex(),
    )
