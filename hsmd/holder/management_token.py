"""Management keys in a token of the owner's: made or stored there, and used with one session. Needs the extra `token`.

The wrapping key is RSA-3072 that only unwraps, or P-256 that only derives; the signing key is P-256 that only signs. One thread
uses the session.
"""

from __future__ import annotations

import os
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from hsmd.envelopes import header
from hsmd.envelopes.envelope import Envelope
from hsmd.envelopes.sealing import open_envelope
from hsmd.envelopes.vault.management_keys import (
    ManagementKeyStatement,
    SignedManagementKey,
    WrappingSuite,
)
from hsmd.envelopes.vault.signing import Kind, to_be_signed
from hsmd.errors import BadRequest, EnvelopeInvalid
from hsmd.holder.management_files import InToken
from hsmd.holder.management_keys import (
    ManagementKey,
    Place,
    SoftwareManagementKey,
    default_suite,
    sign_statement,
    stated_at,
)
from hsmd.pkcs11 import own_keys, wrapping_probe
from hsmd.pkcs11.own_keys import token_errors
from hsmd.pkcs11.public_keys import PublicHalf
from hsmd.pkcs11.session import OpenToken
from hsmd.pkcs11.wrapping import Wrapping

LABEL = "hsmd-management"
SUITES = frozenset({WrappingSuite.RSA, WrappingSuite.P256})


class TokenManagementKey(ManagementKey):
    """A management key whose private halves are in an open token."""

    def __init__(
        self, signed: SignedManagementKey, suite: header.Suite, place: InToken, token: OpenToken
    ) -> None:
        """Raises NotFound if the token does not hold the private halves, BadRequest if it cannot use them, TokenFailure."""
        super().__init__(signed, suite)
        self.token = token
        wrapping, signing = _half(self.statement.wrapping), _half(self.statement.signing)
        with token_errors():
            self.found = _probed(token) if self.statement.suite is WrappingSuite.RSA else Wrapping()
            self.wrapping = own_keys.private_key(token.session, _id(place.wrapping_id), wrapping)
            self._signing = own_keys.private_key(token.session, _id(place.signing_id), signing)
        if self.statement.suite is WrappingSuite.RSA:
            self.found.need(suite)
        self.public = wrapping.public_key

    def sign(self, kind: Kind, text: bytes) -> bytes:
        with token_errors():
            return own_keys.sign_p256(self._signing, to_be_signed(kind, text))

    def open(self, envelope: Envelope) -> bytes:
        with token_errors():
            if isinstance(self.public, ec.EllipticCurvePublicKey):
                return open_envelope(envelope, own_keys.ecdh_key(self.wrapping, self.public))
            return own_keys.open_envelope(
                self.token.session, self.wrapping, self.public, envelope, self.found
            )

    def keep_in_token(self, envelope: Envelope, half: PublicHalf, label: str) -> bytes | None:
        """Open an envelope inside the token and keep its private key there; its CKA_ID. The key is never in this process.

        None if the wrapping key is not RSA: then the key has to pass through memory. Raises EnvelopeInvalid, Conflict,
        BadRequest, TokenFailure.
        """
        if not isinstance(self.public, rsa.RSAPublicKey):
            return None
        if half.key_type.facts.family.value == "ed25519":
            return None
        with token_errors():
            return own_keys.unwrap_to_stay(
                self.token.session, self.wrapping, self.public, envelope, half, self.found, label
            )


def generate(
    token: OpenToken,
    settings: str,
    suite: WrappingSuite,
    place: Place,
    now: datetime,
    replaces: ManagementKey | None = None,
) -> tuple[TokenManagementKey, InToken]:
    """A management key that is made in the token and never leaves it. `settings` is the path of the token's file.

    Nothing is left in the token if it fails. Raises BadRequest, TokenFailure.
    """
    oaep = _check(token, suite)
    where = InToken(
        settings, os.urandom(own_keys.CKA_ID_BYTES).hex(), os.urandom(own_keys.CKA_ID_BYTES).hex()
    )
    try:
        with token_errors():
            wrapping = own_keys.generate_wrapping_key(
                token.session, suite.value, LABEL, _id(where.wrapping_id)
            )
            signing = own_keys.generate_signing_key(token.session, LABEL, _id(where.signing_id))
            signer = own_keys.private_key(token.session, _id(where.signing_id), signing)
            statement = ManagementKeyStatement(
                place.owner,
                place.number,
                suite,
                wrapping.spki,
                signing.spki,
                place.previous,
                stated_at(now, replaces),
            )
            signed = sign_statement(
                statement,
                lambda text: own_keys.sign_p256(signer, to_be_signed(Kind.MANAGEMENT_KEY, text)),
                replaces,
            )
        return TokenManagementKey(signed, oaep, where, token), where
    except BaseException:
        forget(token, where)
        raise


def store(token: OpenToken, settings: str, key: SoftwareManagementKey) -> InToken:
    """Put a copy of a management key that is in memory into the token. Nothing is left in it if that fails.

    Raises BadRequest, TokenFailure.
    """
    _check(token, key.statement.suite, key.suite)
    where = InToken(
        settings, os.urandom(own_keys.CKA_ID_BYTES).hex(), os.urandom(own_keys.CKA_ID_BYTES).hex()
    )
    wrapping = key.pair.wrapping
    assert isinstance(wrapping, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey), "the suite was checked"
    use = own_keys.UNWRAP if isinstance(wrapping, rsa.RSAPrivateKey) else own_keys.DERIVE
    try:
        with token_errors():
            own_keys.store_pair(token.session, wrapping, use, LABEL, _id(where.wrapping_id))
            own_keys.store_pair(token.session, key.pair.signing, own_keys.SIGN, LABEL, _id(where.signing_id))
        return where
    except BaseException:
        forget(token, where)
        raise


def forget(token: OpenToken, where: InToken) -> None:
    """Destroy what was made a moment ago."""
    for cka_id in (where.wrapping_id, where.signing_id):
        own_keys.destroy_pair(token.session, _id(cka_id))


def suite_of(token: OpenToken, suite: WrappingSuite) -> header.Suite:
    """How envelopes are sealed to a key of this token: OAEP with SHA-256 if the token has it. Raises BadRequest."""
    return _check(token, suite)


def _check(token: OpenToken, suite: WrappingSuite, wanted: header.Suite | None = None) -> header.Suite:
    if suite not in SUITES:
        raise BadRequest(
            f"a management key in a token is of the suite rsa or p256, not {suite}; choose one of them"
        )
    if token.write_protected:
        raise BadRequest(
            "the token is write-protected, and no key can be stored in it; remove the protection"
        )
    if suite is WrappingSuite.P256:
        return default_suite(suite)
    found = _probed(token)
    best = wanted or next(
        (each for each in (header.Suite.RSA_OAEP_SHA256_KWP,) if each in found.suites), None
    )
    chosen = best or header.Suite.RSA_OAEP_SHA1_KWP
    found.need(chosen)
    return chosen


def _probed(token: OpenToken) -> Wrapping:
    with token_errors():
        return wrapping_probe.probe(token.session)


def _half(spki: bytes) -> PublicHalf:
    half = PublicHalf.from_spki(spki)
    if half is None:
        raise EnvelopeInvalid("the management key is of a kind that tokens do not hold")
    return half


def _id(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise BadRequest("the file names a CKA_ID that is not hex; use the backup of the key") from None
