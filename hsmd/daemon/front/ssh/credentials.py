"""Which identity a public key or user certificate stands for that a peer logs in with.

asyncssh checks a certificate's CA, validity and principals only loosely: it takes an empty principal list for any user, tells the
application neither principals nor serial, verifies signatures with SHA-1 whatever it announces, and verifies a certificate with
any key that comes in it. So the blob is checked before asyncssh sees it, and nothing is computed with keys that are not known.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hsmd.daemon.front.access.identification import Identities
from hsmd.daemon.front.access.identity import NO_END, Identity
from hsmd.daemon.front.ssh.key_blobs import fingerprint_of, is_bounded, is_certificate, keys_of_certificate
from hsmd.system.ssh_library import asyncssh
from hsmd.system.ssh_profile import certificate_terms

SIGNATURE_ALGORITHMS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-256",
    "rsa-sha2-512",
)
"""The algorithms that the server announces."""
_ACCEPTED = frozenset(SIGNATURE_ALGORITHMS) | {
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
}
"""Accepted under login requests and certificates: a certified key may be in a hardware token."""
WEAK_SIGNATURE = "signed with an algorithm that is not accepted"
UNREADABLE = "unreadable certificate, or one with an unknown critical option"
OVERSIZED = "an RSA key with a modulus or an exponent that is too long"

_CRITICAL = frozenset({"force-command", "source-address"})
"""The critical options that asyncssh knows; it does not decode a certificate with any other."""


def identify(identities: Identities, username: str, blob: bytes, address: str) -> Identity | str:
    """The identity that the key or certificate stands for if the peer can sign with it, or why there is none."""
    if is_certificate(blob):
        return _identify_certificate(identities, username, blob, address)
    fingerprint = fingerprint_of(blob)
    identity = identities.identify_key(username, fingerprint)
    if identity is None:
        return identities.why_not_identified(username, fingerprint)
    return identity if is_bounded(blob) else OVERSIZED


def signed_acceptably(signature: bytes) -> bool:
    """Whether the algorithm that a signature names is accepted."""
    return _string(signature).decode("ascii", "replace") in _ACCEPTED


def _identify_certificate(identities: Identities, username: str, blob: bytes, address: str) -> Identity | str:
    try:
        keys = keys_of_certificate(blob)
    except ValueError:
        return UNREADABLE
    denial = identities.refuse_ca(username, fingerprint_of(keys.ca))
    if denial is not None:
        return denial.rule.value
    if not (keys.certified_is_bounded and is_bounded(keys.ca)):
        return OVERSIZED
    try:
        certificate: Any = asyncssh.public_key.decode_ssh_certificate(blob)  # verifies the CA's signature
    except asyncssh.KeyImportError:
        return UNREADABLE
    if not signed_acceptably(_signature_of(certificate, blob)):
        return WEAK_SIGNATURE
    terms = certificate_terms(certificate)
    decision = identities.identify_certificate(
        username,
        ca_fingerprint=certificate.signing_key.get_fingerprint(),
        principals=tuple(certificate.principals),
        critical_options={name: value for name, value in certificate.options.items() if name in _CRITICAL},
        valid_after=_moment(terms.valid_after),
        valid_before=_moment(terms.valid_before),
        serial=terms.serial,
        key_id=terms.key_id,
        key_fingerprint=certificate.key.get_fingerprint(),
        peer_address=address,
        now=datetime.now(UTC),
    )
    return decision if isinstance(decision, Identity) else decision.rule.value


def _signature_of(certificate: Any, blob: bytes) -> bytes:
    """The signature, which follows the CA's key at the end of a certificate that asyncssh has verified."""
    return _string(blob.rpartition(asyncssh.packet.String(certificate.signing_key.public_data))[2])


def _string(data: bytes) -> bytes:
    """The string that begins here (RFC 4251, section 5); empty if it is not complete."""
    end = 4 + int.from_bytes(data[:4])
    return data[4:end] if end <= len(data) else b""


def _moment(seconds: int) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return NO_END
