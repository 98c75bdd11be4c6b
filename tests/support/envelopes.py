"""Keys of every kind that envelopes are sealed to or contain, and envelopes of every suite."""

from __future__ import annotations

import os
from functools import cache

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mlkem, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from hsmd.envelopes.envelope import Envelope
from hsmd.envelopes.header import Suite
from hsmd.envelopes.recipients import HybridPrivateKey, PrivateKey, SymmetricKey
from hsmd.envelopes.sealing import seal_private_key, seal_secret_key
from tests.support.vectors import vectors

ABOUT = {"record": 7, "owner": "anna", "modes": ["processing", "acquisition"]}
RSA_SUITES = [suite for suite in Suite if suite.is_rsa]
HPKE_SUITES = [suite for suite in Suite if suite.is_hpke]


def recipient(suite: Suite, number: int = 0) -> PrivateKey:
    """A private key of the suite; another number is another key."""
    return _recipient(suite, number)


def rsa_key(number: int = 0, bits: int = 2048) -> rsa.RSAPrivateKey:
    """An RSA key; another number is another key."""
    return _rsa_key(number, bits)


@cache
def _recipient(suite: Suite, number: int) -> PrivateKey:
    if suite.is_rsa:
        return rsa_key(number)
    if suite is Suite.AES256_KWP:
        return SymmetricKey(os.urandom(32))
    if suite is Suite.HPKE_P256:
        return ec.generate_private_key(ec.SECP256R1())
    if suite is Suite.HPKE_X25519:
        return x25519.X25519PrivateKey.generate()
    return HybridPrivateKey(mlkem.MLKEM768PrivateKey.generate(), x25519.X25519PrivateKey.generate())


@cache
def _rsa_key(number: int, bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@cache
def contents() -> dict[str, bytes]:
    """Private keys as PKCS#8, by name."""
    keys = {
        "P-256": ec.generate_private_key(ec.SECP256R1()),
        "P-384": ec.generate_private_key(ec.SECP384R1()),
        "Ed25519": ed25519.Ed25519PrivateKey.generate(),
        "RSA-2048": rsa_key(9),
    }
    return {name: pkcs8(key) for name, key in keys.items()}


def pkcs8(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    """A private key as PrivateKeyInfo in DER."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


@cache
def sealed(suite: Suite, content: str = "P-256") -> Envelope:
    """An envelope with one of `contents` to `recipient(suite)`."""
    return seal_private_key(contents()[content], recipient(suite).public_key(), suite, ABOUT)


def sealed_secret(suite: Suite, secret: bytes) -> Envelope:
    """An envelope with a symmetric key to `recipient(suite)`."""
    return seal_secret_key(secret, recipient(suite).public_key(), suite, ABOUT)


@cache
def golden() -> list[tuple[PrivateKey, Envelope, bytes]]:
    """The recipients, envelopes and keys of tests/vectors/envelopes/golden.json."""
    return [
        (
            stored_key(test["recipient"]),
            Envelope.decode(bytes.fromhex(test[name])),
            bytes.fromhex(test[f"{name}_content"]),
        )
        for test in vectors("envelopes/golden.json")["tests"]
        for name in ("private_key", "secret_key")
    ]


def stored_key(members: dict[str, str]) -> PrivateKey:
    """The private key in the members of a file of values."""
    if "pkcs8" in members:
        key = load_der_private_key(bytes.fromhex(members["pkcs8"]), None)
        assert isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | x25519.X25519PrivateKey)
        return key
    if "symmetric" in members:
        return SymmetricKey(bytes.fromhex(members["symmetric"]))
    return HybridPrivateKey(
        mlkem.MLKEM768PrivateKey.from_seed_bytes(bytes.fromhex(members["mlkem768_seed"])),
        x25519.X25519PrivateKey.from_private_bytes(bytes.fromhex(members["x25519"])),
    )
