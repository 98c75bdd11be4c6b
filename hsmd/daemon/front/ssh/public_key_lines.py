"""Checks OpenSSH public key lines, reduces them to key and fingerprint, and verifies that a peer has the private key of one."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from hsmd.daemon.front.ssh.credentials import signed_acceptably
from hsmd.daemon.front.ssh.key_blobs import MAX_EXPONENT_BITS, MAX_RSA_BITS, is_bounded
from hsmd.daemon.store.records import CredentialRecord
from hsmd.errors import BadRequest
from hsmd.system.ssh_library import asyncssh

_ACCEPTED = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")
MIN_RSA_BITS = 2_048


def parse_public_key(member: str, line: str) -> CredentialRecord:
    """The credential of one OpenSSH public key line; comments and options are not kept.

    Raises BadRequest naming `member` and the fix. Options before the key are refused, because the daemon does not enforce them.
    """
    text = line.strip()
    if "\n" in text or not text.startswith(_ACCEPTED):
        raise BadRequest(f"{member}: give one line of a .pub file, beginning with {', '.join(_ACCEPTED)}")
    try:
        key = asyncssh.import_public_key(text)
    except (asyncssh.KeyImportError, ValueError):
        raise BadRequest(f"{member}: this is not an OpenSSH public key line") from None
    if isinstance(key.pyca_key, RSAPublicKey) and key.pyca_key.key_size < MIN_RSA_BITS:
        raise BadRequest(f"{member}: an RSA key needs at least {MIN_RSA_BITS} bits; better use ssh-ed25519")
    if not is_bounded(key.public_data):
        raise BadRequest(
            f"{member}: an RSA key may have at most {MAX_RSA_BITS} bits and an exponent of {MAX_EXPONENT_BITS} bits, "
            "because any peer can make the daemon compute with it; better use ssh-ed25519"
        )
    algorithm, data = key.export_public_key("openssh").decode("ascii").split()[:2]
    return CredentialRecord(key.get_fingerprint(), f"{algorithm} {data}")


def has_signed(credential: CredentialRecord, statement: bytes, signature: bytes) -> bool:
    """Whether the key of this credential made this SSH signature (RFC 4253, section 6.6) over the statement."""
    if not signed_acceptably(signature):
        return False
    key = asyncssh.import_public_key(credential.public_key)
    return bool(key.verify(statement, signature))
