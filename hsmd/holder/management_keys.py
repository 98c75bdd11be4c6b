"""Management keys in memory: what signs an owner's statements and proofs, and what opens envelopes to the owner.

A key in a token has the same interface (`management_token`). Private halves are in no repr and in no error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mlkem, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmd.envelopes import bare, header
from hsmd.envelopes.canonical_json import Value
from hsmd.envelopes.envelope import Envelope
from hsmd.envelopes.recipients import HybridPrivateKey, HybridPublicKey, PrivateKey, PublicKey, SymmetricKey
from hsmd.envelopes.sealing import open_envelope, seal_private_key, seal_secret_key
from hsmd.envelopes.vault import signing
from hsmd.envelopes.vault.fields import format_time
from hsmd.envelopes.vault.management_keys import (
    MIN_WRAPPING_RSA_BITS,
    ManagementKeyStatement,
    SignedManagementKey,
    WrappingSuite,
)
from hsmd.envelopes.vault.signing import Kind, SigningPrivateKey
from hsmd.errors import BadRequest

_PUBLIC_EXPONENT = 65_537
_SUITES = {
    WrappingSuite.RSA: header.Suite.RSA_OAEP_SHA256_KWP,
    WrappingSuite.P256: header.Suite.HPKE_P256,
    WrappingSuite.X25519: header.Suite.HPKE_X25519,
    WrappingSuite.HYBRID: header.Suite.HPKE_MLKEM768_X25519,
    WrappingSuite.SYMMETRIC: header.Suite.AES256_KWP,
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a statement stands in the series of an owner: a number, and what it follows."""

    owner: str
    number: int = 1
    previous: str = ""
    """Digest (hex) of the statement before; empty for the first one, and after a loss."""

    @classmethod
    def behind(cls, statement: ManagementKeyStatement) -> Place:
        """The place of the key that replaces that one."""
        return cls(statement.owner, statement.number + 1, statement.digest.hex())


class ManagementKey:
    """A wrapping key and a signing key in use; `signed` is their statement, and `suite` how envelopes are sealed to them."""

    def __init__(self, signed: SignedManagementKey, suite: header.Suite) -> None:
        self.signed = signed
        self.statement = signed.verify_own()
        self.suite = suite
        if suite not in self.statement.suite.suites:
            raise BadRequest(
                f"the suite {suite} does not go with a wrapping key of the suite {self.statement.suite}"
            )

    def sign(self, kind: Kind, text: bytes) -> bytes:
        """A signature by the signing key. Raises HsmdError if the key is in a token that fails."""
        raise NotImplementedError

    def open(self, envelope: Envelope) -> bytes:
        """The key in an envelope, in the memory of this process. The caller has checked what the envelope is for.

        Raises EnvelopeInvalid, or HsmdError if the key is in a token that fails.
        """
        raise NotImplementedError

    def open_bare(self, data: bytes, suite: header.Suite, kind: header.Kind) -> bytes:
        """The key that other software has wrapped to an RSA wrapping key, without an envelope (`hsmd.envelopes.bare`).

        Raises EnvelopeInvalid, BadRequest if this management key does not do that.
        """
        raise BadRequest(
            "a wrapped key is opened with an RSA wrapping key in a file, and yours is in a token or of another kind; have it "
            "wrapped for one in a file"
        )

    @property
    def recipient(self) -> PublicKey:
        """What envelopes are sealed to."""
        key = self.statement.wrapping_key
        assert key is not None, "a symmetric one is in memory, and overrides this"
        return key

    def seal_private_key(self, pkcs8: bytes, about: Mapping[str, Value]) -> Envelope:
        """An envelope with a private key, for this management key. Raises EnvelopeInvalid."""
        return seal_private_key(pkcs8, self.recipient, self.suite, about)

    def seal_secret_key(self, secret: bytes, about: Mapping[str, Value]) -> Envelope:
        """An envelope with a symmetric key, for this management key. Raises EnvelopeInvalid."""
        return seal_secret_key(secret, self.recipient, self.suite, about)


@dataclass(frozen=True, slots=True)
class Pair:
    """The private halves of a management key in memory."""

    signing: SigningPrivateKey = field(repr=False)
    wrapping: PrivateKey = field(repr=False)

    @property
    def suite(self) -> WrappingSuite:
        """What the wrapping key is. Raises BadRequest if it cannot be one."""
        key = self.wrapping
        if isinstance(key, rsa.RSAPrivateKey):
            if key.key_size >= MIN_WRAPPING_RSA_BITS:
                return WrappingSuite.RSA
            raise BadRequest(
                f"an RSA key of {key.key_size} bits is too short for a management key; take {MIN_WRAPPING_RSA_BITS} or more"
            )
        if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
            return WrappingSuite.P256
        for kind, suite in (
            (x25519.X25519PrivateKey, WrappingSuite.X25519),
            (HybridPrivateKey, WrappingSuite.HYBRID),
            (SymmetricKey, WrappingSuite.SYMMETRIC),
        ):
            if isinstance(key, kind):
                return suite
        raise BadRequest(
            "a management key wraps with RSA, P-256, X25519, or a symmetric key; bring one of these"
        )

    @property
    def wrapping_public(self) -> bytes:
        """The wrapping key as a statement has it."""
        key = self.wrapping.public_key()
        if isinstance(key, SymmetricKey):
            return key.check_value
        return key.spki() if isinstance(key, HybridPublicKey) else spki_of(key)


class SoftwareManagementKey(ManagementKey):
    """A management key whose private halves are in memory."""

    def __init__(self, signed: SignedManagementKey, suite: header.Suite, pair: Pair) -> None:
        """Raises BadRequest unless the private halves are those of the statement."""
        super().__init__(signed, suite)
        self.pair = pair
        stated = (self.statement.wrapping, self.statement.signing)
        if (pair.wrapping_public, spki_of(pair.signing.public_key())) != stated:
            raise BadRequest(
                "the private keys are not those of the statement beside them; use a copy of the file"
            )

    def sign(self, kind: Kind, text: bytes) -> bytes:
        return signing.sign(self.pair.signing, kind, text)

    def open(self, envelope: Envelope) -> bytes:
        return open_envelope(envelope, self.pair.wrapping)

    def open_bare(self, data: bytes, suite: header.Suite, kind: header.Kind) -> bytes:
        if not isinstance(self.pair.wrapping, rsa.RSAPrivateKey):
            return super().open_bare(data, suite, kind)
        return bare.open_bare(data, self.pair.wrapping, suite, kind)

    @property
    def recipient(self) -> PublicKey:
        return self.pair.wrapping.public_key()


def generate_pair(suite: WrappingSuite, *, for_tokens: bool = False) -> Pair:
    """New private halves; the signing key is one that tokens take, if `for_tokens`, and Ed25519 otherwise."""
    sign: SigningPrivateKey = (
        ec.generate_private_key(ec.SECP256R1()) if for_tokens else ed25519.Ed25519PrivateKey.generate()
    )
    return Pair(sign, _generate_wrapping(suite))


def _generate_wrapping(suite: WrappingSuite) -> PrivateKey:
    if suite is WrappingSuite.RSA:
        return rsa.generate_private_key(_PUBLIC_EXPONENT, MIN_WRAPPING_RSA_BITS)
    if suite is WrappingSuite.P256:
        return ec.generate_private_key(ec.SECP256R1())
    if suite is WrappingSuite.X25519:
        return x25519.X25519PrivateKey.generate()
    if suite is WrappingSuite.HYBRID:
        return HybridPrivateKey(mlkem.MLKEM768PrivateKey.generate(), x25519.X25519PrivateKey.generate())
    return SymmetricKey(os.urandom(32))


def state(
    pair: Pair,
    place: Place,
    now: datetime,
    *,
    replaces: ManagementKey | None = None,
    suite: header.Suite | None = None,
) -> SoftwareManagementKey:
    """The management key of these private halves, with its statement; the key that it `replaces` signs its succession."""
    signed = sign_statement(
        ManagementKeyStatement(
            place.owner,
            place.number,
            pair.suite,
            pair.wrapping_public,
            spki_of(pair.signing.public_key()),
            place.previous,
            stated_at(now, replaces),
        ),
        lambda text: signing.sign(pair.signing, Kind.MANAGEMENT_KEY, text),
        replaces,
    )
    return SoftwareManagementKey(signed, suite or default_suite(pair.suite), pair)


def stated_at(now: datetime, replaces: ManagementKey | None) -> str:
    """When a statement is dated: never before the one that it follows, should the clock have been set back."""
    return max(format_time(now), "" if replaces is None else replaces.statement.stated_at)


def sign_statement(
    statement: ManagementKeyStatement,
    sign: Callable[[bytes], bytes],
    replaces: ManagementKey | None,
) -> SignedManagementKey:
    """The statement, signed by its own key, and by the one that it replaces, if any."""
    text = statement.encode()
    succession = b"" if replaces is None else replaces.sign(Kind.MANAGEMENT_KEY, text)
    signed = SignedManagementKey(text, sign(text), succession)
    if replaces is not None:
        signed.verify_succession(replaces.statement)
    return signed


def default_suite(suite: WrappingSuite) -> header.Suite:
    """How envelopes are sealed to a wrapping key, unless its token wants another hash of OAEP."""
    return _SUITES[suite]


def spki_of(
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | x25519.X25519PublicKey,
) -> bytes:
    """SubjectPublicKeyInfo in DER."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
