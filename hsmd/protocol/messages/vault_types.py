"""What requests of the vault share: proofs, statements, envelopes, and what is told of a version."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from hsmd.protocol.messages.base import Request
from hsmd.protocol.messages.vault_enumerations import (
    PROOF_KIND,
    VAULT_KEY_KIND,
    VAULT_MODE,
    VAULT_REASON,
    VAULT_STATE,
)

__all__ = ["VaultProof", "VaultVersion", "proved_members"]

MAX_VERSION = 1_000_000_000

Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, Meta(max_length=1_024)]
StatementText = Annotated[bytes, Meta(max_length=8_192)]
"""Canonical JSON."""
EnvelopeBytes = Annotated[bytes, Meta(max_length=16_384)]
PublicKeyDer = Annotated[bytes, Meta(max_length=4_096)]
"""A SubjectPublicKeyInfo in canonical DER."""
Version = Annotated[int, Meta(ge=0, le=MAX_VERSION)]
SomeVersion = Annotated[int, Meta(ge=1, le=MAX_VERSION)]
Count = Annotated[int, Meta(ge=0, lt=1 << 53)]

UNPROVED = frozenset({"proof", "wrapping_proof"})
"""The members that hold proofs of the rest of their request."""


class VaultProof(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A proof of one request by a management key: [vault-formats.md](vault-formats.md), section 7."""

    nonce: Digest
    """Of the challenge that is answered; each is good for one proof."""
    kind: Annotated[str, Meta(max_length=32), PROOF_KIND.meta]
    value: Signature


class VaultVersion(Struct, omit_defaults=True):
    """One version of a record, as the daemon judges it now."""

    record: str
    version: int
    kind: Annotated[str, VAULT_KEY_KIND.meta]
    key: str
    """SHA-256 of the SubjectPublicKeyInfo in hexadecimal; of a symmetric key its check value."""
    state: Annotated[str, VAULT_STATE.meta]
    created_at: datetime
    number: int
    """Of its newest statement."""
    suite: str
    """How its envelope is wrapped."""
    management: str
    """SHA-256 of the statement of the management key that it is wrapped for, in hexadecimal."""
    reason: Annotated[str, VAULT_REASON.meta] = "none"
    newest: bool = True
    """Whether the record has no newer version."""
    mode: Annotated[str, VAULT_MODE.meta] = "notify"
    not_before: datetime | None = None
    not_after: datetime | None = None
    max_uses: int = 0
    """The total of acquisitions that are given out; 0 for no limit."""
    requests: int = 0
    """Acquisitions that were asked for with a valid proof, refused ones included."""
    released: int = 0
    """Those that were given out."""
    uses_left: int = -1
    """-1 for no limit."""
    acquirable: bool = False
    """Whether `vault.get` would give it out."""
    key_type: str = ""
    """In answers to `vault.show`, of private keys: `rsa-` and the bits, `p-256`, `p-384`, `p-521`, `ed25519` or `x25519`."""


def proved_members(request: Request) -> dict[str, Any]:
    """What a proof of a request is about: the members of its JSON document without those that hold proofs."""
    members = msgspec.to_builtins(request)
    return {name: value for name, value in members.items() if name not in UNPROVED}
