"""Verifies signatures by TLS SignatureScheme with `cryptography`, apart from the project's own tables."""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding

_HASHES = {4: hashes.SHA256(), 5: hashes.SHA384(), 6: hashes.SHA512()}


def verify(spki: bytes, scheme: int, signature: bytes, data: bytes) -> None:
    """Raises InvalidSignature if `signature` is not one over `data` by the key `spki`."""
    key = serialization.load_der_public_key(spki)
    high, low = scheme >> 8, scheme & 0xFF
    if scheme == 0x0807:
        key.verify(signature, data)
    elif low == 3:
        key.verify(signature, data, ec.ECDSA(_HASHES[high]))
    elif low == 1:
        key.verify(signature, data, padding.PKCS1v15(), _HASHES[high])
    else:
        pss = padding.PSS(padding.MGF1(_HASHES[low]), _HASHES[low].digest_size)
        key.verify(signature, data, pss, _HASHES[low])
