"""Identity keys of nodes: OpenSSH public keys whose signatures a node's acknowledgements are verified with."""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

from hsmd.envelopes.vault.public_keys import check_coordinate
from hsmd.errors import EnvelopeInvalid
from hsmd.transparency.note import Verifier

SIGNER = "hsmd.node/"
"""A node signs notes under this and its name."""
_WANTED = (
    "must be an OpenSSH public key of type ssh-ed25519 or ecdsa-sha2-nistp256, such as: ssh-ed25519 AAAA..."
)


def normal_form(line: str) -> str:
    """Type and base64 of an OpenSSH public key line, without its comment. Raises ValueError that says what is wrong."""
    key = _load(line)
    if isinstance(key, ed25519.Ed25519PublicKey):
        try:
            check_coordinate(key)
        except EnvelopeInvalid:
            raise ValueError(
                "is a key for which anyone can make signatures; make a new one with ssh-keygen"
            ) from None
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def verifier(name: str, identity: str) -> Verifier:
    """What the notes of a node are verified with. Raises ValueError unless `identity` is such a key."""
    return Verifier.from_public_key(f"{SIGNER}{name}", _load(identity))


def _load(line: str) -> ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey:
    try:
        key = load_ssh_public_key(" ".join(line.split()[:2]).encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(_WANTED) from None
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise ValueError(_WANTED)
