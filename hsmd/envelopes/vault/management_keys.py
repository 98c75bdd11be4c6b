"""Management keys: the statement with which an owner registers a wrapping key and a signing key together."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519

from hsmd.envelopes import header
from hsmd.envelopes.recipients import HybridPublicKey, PublicKey
from hsmd.envelopes.vault import fields, signing
from hsmd.envelopes.vault.public_keys import check_coordinate, load
from hsmd.envelopes.vault.signing import SigningPublicKey
from hsmd.errors import EnvelopeInvalid, ProofInvalid

FORMAT = "hsmd-vault-management-key/1"
MIN_WRAPPING_RSA_BITS = 3_072
SYMMETRIC_BYTES = 32
"""Length of a symmetric wrapping key, and of the check value that stands for it."""
_WHAT = "management-key statement"
_NAMES = frozenset({"number", "owner", "previous", "signing", "stated_at", "suite", "wrapping"})
_CHECK = fields.Check(_WHAT)


class WrappingSuite(StrEnum):
    """What the wrapping key of a management key is."""

    RSA = "rsa"
    """RSA from 3072 bits."""
    P256 = "p256"
    X25519 = "x25519"
    HYBRID = "hybrid"
    """ML-KEM-768 and X25519 together."""
    SYMMETRIC = "symmetric"
    """An AES-256 key, which the owner alone has."""

    @property
    def suites(self) -> frozenset[header.Suite]:
        """Suites of envelopes that are sealed to such a key."""
        return _SUITES[self]


_SUITES = {
    WrappingSuite.RSA: frozenset({header.Suite.RSA_OAEP_SHA1_KWP, header.Suite.RSA_OAEP_SHA256_KWP}),
    WrappingSuite.P256: frozenset({header.Suite.HPKE_P256}),
    WrappingSuite.X25519: frozenset({header.Suite.HPKE_X25519}),
    WrappingSuite.HYBRID: frozenset({header.Suite.HPKE_MLKEM768_X25519}),
    WrappingSuite.SYMMETRIC: frozenset({header.Suite.AES256_KWP}),
}


@dataclass(frozen=True, slots=True)
class ManagementKeyStatement:
    """`owner` states which keys protect and manage what they deposit. Raises EnvelopeInvalid for what cannot be stated."""

    owner: str
    number: int
    """1 for the first key, and one more for each that replaces it."""
    suite: WrappingSuite
    wrapping: bytes
    """SubjectPublicKeyInfo of the wrapping key in DER; of a symmetric key, its check value (`recipients.SymmetricKey`)."""
    signing: bytes
    """SubjectPublicKeyInfo of the signing key in DER."""
    previous: str
    """SHA-256 in hex of the text of the statement before; empty for the first, and for a restart after a loss."""
    stated_at: str

    def __post_init__(self) -> None:
        _CHECK.name("owner", self.owner)
        _CHECK.count("number", self.number, 1)
        _CHECK.digest("previous", self.previous, optional=True)
        _CHECK.time("stated_at", self.stated_at)
        if self.number == 1 and self.previous:
            raise _CHECK.fault("previous", "is not empty, but there is none before number 1")
        wrapping_key(self.suite, self.wrapping)
        SigningPublicKey.from_spki(self.signing)
        if self.wrapping == self.signing:
            raise _CHECK.fault("signing", "is the wrapping key: a key has one of the two uses")

    def encode(self) -> bytes:
        """The text that is signed."""
        members = {
            "number": self.number,
            "owner": self.owner,
            "previous": self.previous,
            "signing": self.signing.hex(),
            "stated_at": self.stated_at,
            "suite": self.suite.value,
            "wrapping": self.wrapping.hex(),
        }
        return fields.encode(_WHAT, FORMAT, members)

    @classmethod
    def decode(cls, text: bytes) -> ManagementKeyStatement:
        """The statement of this text. Raises EnvelopeInvalid unless `encode` makes exactly this text of it."""
        members = fields.decode(text, _WHAT, FORMAT, _NAMES)
        return cls(
            owner=_CHECK.name("owner", members["owner"]),
            number=_CHECK.count("number", members["number"], 1),
            suite=_CHECK.choice("suite", members["suite"], WrappingSuite),
            wrapping=_CHECK.octets("wrapping", members["wrapping"]),
            signing=_CHECK.octets("signing", members["signing"]),
            previous=_CHECK.digest("previous", members["previous"], optional=True),
            stated_at=_CHECK.time("stated_at", members["stated_at"]),
        )

    @property
    def digest(self) -> bytes:
        """SHA-256 of the text."""
        return sha256(self.encode()).digest()

    @property
    def fingerprint(self) -> str:
        """What an operator compares and confirms: `SHA256:` and the digest in base64, as OpenSSH writes fingerprints."""
        return fingerprint_of_text(self.encode())

    @property
    def recipient(self) -> bytes:
        """What the headers of envelopes that are sealed to this key have as `recipient`: 32 bytes."""
        if self.suite is WrappingSuite.SYMMETRIC:
            return self.wrapping
        return sha256(self.wrapping).digest()

    @property
    def signing_key(self) -> SigningPublicKey:
        """The key that verifies this owner's statements and proofs."""
        return SigningPublicKey.from_spki(self.signing)

    @property
    def wrapping_key(self) -> PublicKey | None:
        """The key that envelopes are sealed to; None for a symmetric one, which is not in the statement."""
        return wrapping_key(self.suite, self.wrapping)


@dataclass(frozen=True, slots=True)
class SignedManagementKey:
    """A statement with the signature of its own signing key, and that of the key that it replaces."""

    text: bytes
    signature: bytes
    succession: bytes = b""
    """By the signing key of the statement before; empty for the first, and for a restart after a loss."""

    def verify_own(self) -> ManagementKeyStatement:
        """The statement, once its own signing key has signed it. Raises EnvelopeInvalid or ProofInvalid.

        That proves that whoever signed has the signing key; that it is the owner, a confirmation or a succession does.
        """
        statement = ManagementKeyStatement.decode(self.text)
        statement.signing_key.verify(signing.Kind.MANAGEMENT_KEY, self.text, self.signature)
        return statement

    def verify_succession(self, previous: ManagementKeyStatement) -> ManagementKeyStatement:
        """The statement, once it is proven that the holder of the key before agreed. Raises EnvelopeInvalid, ProofInvalid.

        The statement must continue `previous`, with two keys that are both new.
        """
        statement = self.verify_own()
        _check_continues(previous, statement)
        if not self.succession:
            raise ProofInvalid("the management key that is replaced has not signed its succession")
        previous.signing_key.verify(signing.Kind.MANAGEMENT_KEY, self.text, self.succession)
        return statement


def _check_continues(previous: ManagementKeyStatement, statement: ManagementKeyStatement) -> None:
    if statement.owner != previous.owner:
        raise _CHECK.fault("owner", "is not the owner of the management key before it")
    if statement.number != previous.number + 1:
        raise _CHECK.fault("number", f"is not {previous.number + 1}, the one after the key that is replaced")
    if statement.previous != previous.digest.hex():
        raise _CHECK.fault("previous", "is not the SHA-256 of the statement of the key that is replaced")
    if statement.stated_at < previous.stated_at:
        raise _CHECK.fault("stated_at", "is earlier than that of the key that is replaced")
    old = {previous.wrapping, previous.signing}
    if statement.wrapping in old or statement.signing in old:
        raise _CHECK.fault(
            "wrapping or signing", "is a key of the management key that is replaced; make new ones"
        )


def fingerprint_of_text(text: bytes) -> str:
    """The fingerprint of the statement with this text."""
    return "SHA256:" + base64.b64encode(sha256(text).digest()).decode().rstrip("=")


def wrapping_key(suite: WrappingSuite, wrapping: bytes) -> PublicKey | None:
    """The wrapping key in the bytes of a statement; None for a symmetric one. Raises EnvelopeInvalid if it does not fit."""
    if suite is WrappingSuite.SYMMETRIC:
        if len(wrapping) != SYMMETRIC_BYTES:
            raise _CHECK.fault("wrapping", f"has not the {SYMMETRIC_BYTES} bytes of a check value")
        return None
    if suite is WrappingSuite.HYBRID:
        hybrid = HybridPublicKey.from_spki(wrapping)
        check_coordinate(hybrid.x25519)
        return hybrid
    key = load(wrapping)
    if (
        suite is WrappingSuite.RSA
        and isinstance(key, rsa.RSAPublicKey)
        and key.key_size >= MIN_WRAPPING_RSA_BITS
    ):
        return key
    if (
        suite is WrappingSuite.P256
        and isinstance(key, ec.EllipticCurvePublicKey)
        and isinstance(key.curve, ec.SECP256R1)
    ):
        return key
    if suite is WrappingSuite.X25519 and isinstance(key, x25519.X25519PublicKey):
        return key
    raise EnvelopeInvalid(
        f"{_WHAT}: the wrapping key does not fit the suite {suite} (RSA has at least {MIN_WRAPPING_RSA_BITS} bits)"
    )
