"""Blobs of public keys and certificates (RFC 4253, section 6.6; OpenSSH's PROTOCOL.certkeys), read without arithmetic.

Before its login a peer may send any key and any certificate. What arithmetic on them costs is up to the peer: an RSA exponent as
long as its modulus makes one verification take milliseconds. So the daemon tells whose a blob is by its bytes alone, and computes
only with keys that it knows and whose size is bounded.
"""

from __future__ import annotations

import base64
from hashlib import sha256
from typing import NamedTuple

from hsmd.system.ssh_library import asyncssh

MAX_RSA_BITS = 16_384
"""The longest RSA modulus that OpenSSH makes and takes."""
MAX_EXPONENT_BITS = 32
"""Public exponents of RSA keys; ssh-keygen makes 65537."""

_RSA = b"ssh-rsa"
_PARTS = {
    b"ssh-ed25519": 1,
    _RSA: 2,
    b"ecdsa-sha2-nistp256": 2,
    b"ecdsa-sha2-nistp384": 2,
    b"ecdsa-sha2-nistp521": 2,
    b"sk-ssh-ed25519@openssh.com": 2,
    b"sk-ecdsa-sha2-nistp256@openssh.com": 3,
}
"""How many strings or integers make a key of each accepted type."""
_CERTIFICATES = {
    key.removesuffix(b"@openssh.com") + b"-cert-v01@openssh.com": (key, parts)
    for key, parts in _PARTS.items()
}
_AFTER_KEY = 8 + 4  # serial number and kind
_VALIDITY = 8 + 8


class CertificateKeys(NamedTuple):
    """The two keys of a certificate. `ca` is the blob of the key that issued it; nothing is verified yet."""

    certified_is_bounded: bool
    ca: bytes


def fingerprint_of(blob: bytes) -> str:
    """The SHA-256 fingerprint of a key as OpenSSH prints it."""
    return "SHA256:" + base64.b64encode(sha256(blob).digest()).decode("ascii").rstrip("=")


def is_bounded(blob: bytes) -> bool:
    """Whether the blob is of an accepted type, and arithmetic on the key is cheap."""
    packet = asyncssh.packet.SSHPacket(blob)
    try:
        algorithm = packet.get_string()
        return algorithm in _PARTS and _parts_are_bounded(packet, algorithm, _PARTS[algorithm])
    except asyncssh.packet.PacketDecodeError:
        return False


def is_certificate(blob: bytes) -> bool:
    """Whether a blob says that it is a certificate, of whatever kind: no type of a plain key names one."""
    try:
        algorithm = asyncssh.packet.SSHPacket(blob).get_string()
    except asyncssh.packet.PacketDecodeError:
        return False
    return b"-cert-v" in algorithm or algorithm.startswith(b"x509v3-")


def keys_of_certificate(blob: bytes) -> CertificateKeys:
    """The keys of a user certificate. Raises ValueError for a blob that is not of an accepted type."""
    packet = asyncssh.packet.SSHPacket(blob)
    try:
        key, parts = _CERTIFICATES[packet.get_string()]
        packet.get_string()  # nonce
        bounded = _parts_are_bounded(packet, key, parts)
        packet.get_bytes(_AFTER_KEY)
        packet.get_string()  # key id
        packet.get_string()  # principals
        packet.get_bytes(_VALIDITY)
        for _ in ("critical options", "extensions", "reserved"):
            packet.get_string()
        return CertificateKeys(bounded, packet.get_string())
    except (KeyError, asyncssh.packet.PacketDecodeError):
        raise ValueError("not a certificate of an accepted type") from None


def _parts_are_bounded(packet: asyncssh.packet.SSHPacket, algorithm: bytes, parts: int) -> bool:
    """Read the parts of a key. For RSA they are exponent and modulus; in all other types the type fixes the size."""
    lengths = [len(packet.get_string().lstrip(b"\0")) * 8 for _ in range(parts)]
    return algorithm != _RSA or (lengths[0] <= MAX_EXPONENT_BITS and lengths[1] <= MAX_RSA_BITS)
