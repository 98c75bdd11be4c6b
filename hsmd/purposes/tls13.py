"""What a TLS 1.3 CertificateVerify signs (RFC 8446, section 4.4.3)."""

from __future__ import annotations

from collections.abc import Callable

from hsmd.algorithms import Family, KeyType, Padding, SignatureScheme
from hsmd.errors import PurposeMismatch

PADDING = b" " * 64
"""64 spaces. No honest TLS 1.2 random begins like this, so signatures of the two versions cannot be confused."""
_CONTEXT_BYTES = 33
_SEPARATOR_AT = len(PADDING) + _CONTEXT_BYTES
_HASH_BYTES = (32, 48)
"""The transcript hash is that of the cipher suite (SHA-256 or SHA-384), independent of the scheme's hash."""


def allowed_in_tls13(key_type: KeyType, scheme: SignatureScheme) -> bool:
    """Whether a key of this type may use the scheme in a TLS 1.3 handshake (RFC 8446, section 4.2.3).

    RSA keys only with PSS, ECDSA keys only with the scheme of their curve.
    """
    facts = scheme.facts
    if facts.family is not key_type.facts.family:
        return False
    if facts.family is Family.RSA:
        return facts.padding is Padding.PSS
    return facts.tls13_curve == key_type.facts.curve


def certificate_verify_rule(role: str) -> Callable[[bytes], None]:
    """The rule for one `role`, `server` or `client`; it raises PurposeMismatch for anything but the exact form."""
    context = f"TLS 1.3, {role} CertificateVerify".encode()
    prefix = PADDING + context + b"\0"
    lengths = frozenset(len(prefix) + size for size in _HASH_BYTES)

    def rule(data: bytes) -> None:
        if len(data) not in lengths or not data.startswith(prefix):
            raise PurposeMismatch(f"not a TLS 1.3 {role} CertificateVerify: {_fault(context, data)}")

    return rule


def _fault(context: bytes, data: bytes) -> str:
    if not data.startswith(PADDING):
        return "it does not begin with 64 spaces"
    if data[len(PADDING) : _SEPARATOR_AT] != context:
        return "the context string is another"
    if data[_SEPARATOR_AT : _SEPARATOR_AT + 1] != b"\0":
        return "the byte after the context string is not zero"
    return "the transcript hash is not 32 or 48 bytes long"
