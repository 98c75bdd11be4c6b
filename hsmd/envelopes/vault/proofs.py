"""Proofs: that the holder of a management key wants this one request, and that a depositor has the key of a deposit.

A proof is a signature, or an HMAC with a secret that was sealed to the key and that only its holder could open.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, x25519

from hsmd.envelopes import canonical_json, header
from hsmd.envelopes.canonical_json import Value
from hsmd.envelopes.envelope import Envelope
from hsmd.envelopes.recipients import PrivateKey, PublicKey
from hsmd.envelopes.sealing import open_envelope, seal_secret_key
from hsmd.envelopes.vault import fields, signing
from hsmd.envelopes.vault.about import challenge_about, check_about, possession_about
from hsmd.envelopes.vault.public_keys import load
from hsmd.envelopes.vault.signing import MAX_SIGNATURE_BYTES, Kind, SigningPrivateKey, SigningPublicKey, pss
from hsmd.errors import EnvelopeInvalid, ProofInvalid

PROOF_FORMAT = "hsmd-vault-proof/1"
POSSESSION_FORMAT = "hsmd-vault-possession/1"
NONCE_BYTES = 32
SECRET_BYTES = 32
"""Of what is sealed to a key, whose holder opens it."""
MAC_BYTES = 32
_PROOF = fields.Check("proof")
_POSSESSION = fields.Check("proof of possession")
UNPROVED = frozenset({"proof", "wrapping_proof"})
"""Members of a request that hold proofs of the rest of it."""


class ProofKind(StrEnum):
    """How a key is proven."""

    SIGNATURE = "signature"
    OPENED = "opened"


@dataclass(frozen=True, slots=True)
class Proof:
    """What goes with a request, besides its nonce."""

    kind: ProofKind
    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ProofContext:
    """The one request that a proof is for."""

    daemon: str
    binding: bytes = field(repr=False)
    """Identifies the connection to both its ends, and to no third party: the session identifier of SSH (RFC 4253)."""
    owner: str
    verb: str
    """The `op` of the request."""
    record: str
    """Empty if the request is about no record."""
    version: int
    """0 if the request names none."""
    request: bytes
    """`request_digest` of the request."""
    nonce: bytes

    def text(self) -> bytes:
        """What is signed. Raises EnvelopeInvalid for what a request cannot have."""
        members = {
            "binding": _binding(_PROOF, self.binding),
            "daemon": _PROOF.daemon("daemon", self.daemon),
            "nonce": _nonce(_PROOF, self.nonce),
            "owner": _PROOF.name("owner", self.owner),
            "record": self.record and _PROOF.name("record", self.record),
            "request": _PROOF.digest("request", self.request.hex()),
            "verb": _PROOF.verb("verb", self.verb),
            "version": _PROOF.count("version", self.version, 0),
        }
        return fields.encode("proof", PROOF_FORMAT, members)


def request_digest(members: Mapping[str, object]) -> bytes:
    """SHA-256 of the canonical JSON of a request's members, without proofs and without those that are None.

    Raises EnvelopeInvalid for values that have no canonical form.
    """
    kept = {name: value for name, value in members.items() if name not in UNPROVED and value is not None}
    return sha256(canonical_json.encode(kept)).digest()


# --- by the signing key ---


def sign_proof(key: SigningPrivateKey, context: ProofContext) -> Proof:
    """The proof by a signing key in software."""
    return Proof(ProofKind.SIGNATURE, signing.sign(key, Kind.PROOF, context.text()))


def verify_signature(proof: Proof, context: ProofContext, key: SigningPublicKey) -> None:
    """Raises ProofInvalid unless `key` has signed for this request."""
    if proof.kind is not ProofKind.SIGNATURE:
        raise ProofInvalid("the proof is not a signature")
    key.verify(Kind.PROOF, context.text(), proof.value)


# --- by the wrapping key, which opens a challenge ---


def seal_challenge(secret: bytes, nonce: bytes, recipient: PublicKey, suite: header.Suite) -> bytes:
    """The envelope with the secret of a challenge. Raises EnvelopeInvalid if nothing can be sealed to the key."""
    return _sealed(secret, recipient, suite, challenge_about(nonce))


def open_challenge(encoded: bytes, nonce: bytes, key: PrivateKey) -> bytes:
    """The secret in it. Raises EnvelopeInvalid, before the key is used, if it is not the challenge of this nonce."""
    return open_envelope(checked_challenge(encoded, nonce), key)


def checked_challenge(encoded: bytes, nonce: bytes) -> Envelope:
    """The envelope of this challenge, for a token that opens it. Raises EnvelopeInvalid if it is another one."""
    return _checked(encoded, challenge_about(nonce))


def answer_challenge(secret: bytes, context: ProofContext) -> Proof:
    """The proof by a key that has opened the challenge."""
    return Proof(ProofKind.OPENED, _mac(secret, Kind.PROOF, context.text()))


def verify_opened(proof: Proof, context: ProofContext, secret: bytes) -> None:
    """Raises ProofInvalid unless the proof was made with the secret of the challenge, for this request."""
    if proof.kind is not ProofKind.OPENED:
        raise ProofInvalid("the proof is not an opened challenge")
    _check_mac(proof.value, secret, Kind.PROOF, context.text())


# --- possession of the key that is deposited ---


def possession_text(
    daemon: str, binding: bytes, owner: str, record: str, version: int, key: str, nonce: bytes
) -> bytes:
    """What proves that a depositor has the private key; `key` is the SHA-256 of its SubjectPublicKeyInfo in hex.

    Raises EnvelopeInvalid for what a deposit cannot have.
    """
    members = {
        "binding": _binding(_POSSESSION, binding),
        "daemon": _POSSESSION.daemon("daemon", daemon),
        "key": _POSSESSION.digest("key", key),
        "nonce": _nonce(_POSSESSION, nonce),
        "owner": _POSSESSION.name("owner", owner),
        "record": _POSSESSION.name("record", record),
        "version": _POSSESSION.count("version", version, 1),
    }
    return fields.encode("proof of possession", POSSESSION_FORMAT, members)


def sign_possession(key: SigningPrivateKey, text: bytes) -> Proof:
    """The proof by a private key in software that signs; RSA with PSS."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        data = signing.to_be_signed(Kind.POSSESSION, text)
        return Proof(ProofKind.SIGNATURE, key.sign(data, ec.ECDSA(_curve_hash(key.curve))))
    return Proof(ProofKind.SIGNATURE, signing.sign(key, Kind.POSSESSION, text))


def seal_possession(secret: bytes, nonce: bytes, spki: bytes) -> bytes:
    """The envelope with the secret for a key that opens. Raises EnvelopeInvalid if nothing can be sealed to the key."""
    recipient = load(spki)
    if isinstance(recipient, ed25519.Ed25519PublicKey):
        raise EnvelopeInvalid("proof of possession: an Ed25519 key opens nothing; let it sign")
    return _sealed(secret, recipient, _suite_of(recipient), possession_about(nonce))


def open_possession(encoded: bytes, nonce: bytes, key: PrivateKey) -> bytes:
    """The secret in it. Raises EnvelopeInvalid, before the key is used, if it is not the one of this nonce."""
    return open_envelope(_checked(encoded, possession_about(nonce)), key)


def answer_possession(secret: bytes, text: bytes) -> Proof:
    """The proof by a private key that has opened the secret."""
    return Proof(ProofKind.OPENED, _mac(secret, Kind.POSSESSION, text))


def verify_possession(proof: Proof, text: bytes, spki: bytes, secret: bytes = b"") -> None:
    """Raises ProofInvalid unless the private key of `spki` signed the text, or `secret` was opened with it.

    Without a `secret`, only a signature is accepted. Raises EnvelopeInvalid if `spki` is no public key.
    """
    key = load(spki)
    if proof.kind is ProofKind.OPENED:
        if not secret:
            raise ProofInvalid("proof of possession: no challenge was sealed to this key; let it sign")
        _check_mac(proof.value, secret, Kind.POSSESSION, text)
        return
    if isinstance(key, x25519.X25519PublicKey):
        raise ProofInvalid("proof of possession: an X25519 key signs nothing; open the challenge with it")
    if len(proof.value) > MAX_SIGNATURE_BYTES or not _signed(
        key, signing.to_be_signed(Kind.POSSESSION, text), proof.value
    ):
        raise ProofInvalid("proof of possession: the signature does not fit the public key and this deposit")


def _signed(
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey,
    data: bytes,
    signature: bytes,
) -> bool:
    """Whether the key of a deposit signed: RSA with PKCS #1 v1.5 or PSS, both with SHA-256; ECDSA with the curve's hash."""
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, data)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(_curve_hash(key.curve)))
        else:
            return _signed_by_rsa(key, data, signature)
    except InvalidSignature:
        return False
    return True


def _signed_by_rsa(key: rsa.RSAPublicKey, data: bytes, signature: bytes) -> bool:
    for form in (pss(), padding.PKCS1v15()):
        try:
            key.verify(signature, data, form, hashes.SHA256())
        except InvalidSignature:
            continue
        return True
    return False


def _curve_hash(curve: ec.EllipticCurve) -> hashes.HashAlgorithm:
    """The hash that TLS 1.3 pairs with the curve (RFC 8446, section 4.2.3)."""
    if curve.key_size <= 256:
        return hashes.SHA256()
    return hashes.SHA384() if curve.key_size == 384 else hashes.SHA512()


def _suite_of(key: PublicKey) -> header.Suite:
    if isinstance(key, rsa.RSAPublicKey):
        return header.Suite.RSA_OAEP_SHA256_KWP
    return header.Suite.HPKE_X25519 if isinstance(key, x25519.X25519PublicKey) else header.Suite.HPKE_P256


def _sealed(secret: bytes, recipient: PublicKey, suite: header.Suite, about: Mapping[str, Value]) -> bytes:
    if len(secret) != SECRET_BYTES:
        raise EnvelopeInvalid(f"the secret of a challenge has {SECRET_BYTES} bytes")
    return seal_secret_key(secret, recipient, suite, about).encode()


def _checked(encoded: bytes, about: Mapping[str, Value]) -> Envelope:
    envelope = Envelope.decode(encoded)
    check_about(envelope.header, about)
    if envelope.header.kind is not header.Kind.SECRET_KEY:
        raise EnvelopeInvalid(
            "envelope: the secret of a challenge is a secret key, and this is a private key"
        )
    return envelope


def _mac(secret: bytes, kind: Kind, text: bytes) -> bytes:
    if len(secret) != SECRET_BYTES:
        raise EnvelopeInvalid(f"the secret of a challenge has {SECRET_BYTES} bytes")
    return hmac.digest(secret, signing.to_be_signed(kind, text), "sha256")


def _check_mac(value: bytes, secret: bytes, kind: Kind, text: bytes) -> None:
    if not hmac.compare_digest(value, _mac(secret, kind, text)):
        raise ProofInvalid(
            "the proof was not made with the secret of this challenge, or not for this request"
        )


def _binding(check: fields.Check, binding: bytes) -> str:
    """In the text stands a digest: the identifier itself is a secret of the connection."""
    if not binding:
        raise check.fault("binding", "is empty: the connection has no session identifier")
    return sha256(binding).hexdigest()


def _nonce(check: fields.Check, nonce: bytes) -> str:
    if len(nonce) != NONCE_BYTES:
        raise check.fault("nonce", f"has not {NONCE_BYTES} bytes")
    return nonce.hex()
