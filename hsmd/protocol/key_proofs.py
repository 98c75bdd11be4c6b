"""Proof that a client has the private half of a public key that it registers for itself.

It is a signature over a statement that names the client and both keys, so it serves no other client and no other end.
"""

from __future__ import annotations

import base64
import binascii

_CONTEXT = b"hsmd client key rotation v1\0"
_ED25519 = b"ssh-ed25519"


def rotation_statement(client: str, current: str, successor: str) -> bytes:
    """The bytes that the next key of a client signs; `current` and `successor` are fingerprints as OpenSSH prints them.

    The first bytes belong to no other format that these keys sign: a login (RFC 4252, section 7) begins with the length of a
    session identifier.
    """
    return _CONTEXT + b"".join(map(_string, (client.encode(), current.encode(), successor.encode())))


def encode_ed25519(signature: bytes) -> str:
    """The proof from an Ed25519 signature (64 bytes)."""
    return base64.b64encode(_string(_ED25519) + _string(signature)).decode("ascii")


def decode(proof: str) -> bytes:
    """The SSH signature (RFC 4253, section 6.6) in a proof; empty if it is malformed."""
    try:
        return base64.b64decode(proof, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _string(data: bytes) -> bytes:
    """RFC 4251, section 5."""
    return len(data).to_bytes(4) + data
