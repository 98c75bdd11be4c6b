"""Control requests that replace a management key: its owner wraps every deposit anew."""

from __future__ import annotations

from msgspec import Struct

from hsmd.protocol.messages.base import NO_SUBJECT, OWNER, Done, Page, Request, Text
from hsmd.protocol.messages.vault_keys import VaultRegistered
from hsmd.protocol.messages.vault_types import EnvelopeBytes, Signature, StatementText, VaultProof

__all__ = [
    "VaultRekeyBegin",
    "VaultRekeyFinish",
    "VaultRekeyList",
    "VaultRekeyPage",
    "VaultRekeyWrap",
    "VaultSealed",
]


class VaultRekeyBegin(Request, tag="vault.rekey.begin"):
    """Register the management key that replaces the active one, which vouches for it. It is active at once."""

    Result = VaultRegistered
    roles = OWNER
    changes = True
    subject = NO_SUBJECT
    hashed = frozenset({"wrapping_proof", "proof"})

    text: StatementText
    """The statement of the new key."""
    signature: Signature
    """Of the text, by the signing key in it."""
    succession: Signature
    """Of the text, by the signing key of the management key before."""
    wrapping_proof: VaultProof | None = None
    """That the new wrapping key can open, of the kind `opened`; null for a symmetric one."""
    proof: VaultProof | None = None
    """By the management key before."""


class VaultSealed(Struct):
    """A version that is to be wrapped anew."""

    record: str
    version: int
    envelope: bytes
    text: bytes
    """Its newest statement."""
    signature: bytes


class VaultRekeyPage(Struct):
    """Versions in the order of record and version."""

    items: list[VaultSealed]
    more: bool = False
    """Whether there are further ones."""


class VaultRekeyList(Request, tag="vault.rekey.list"):
    """Read the envelopes that are not wrapped for the active management key yet. No use is counted."""

    Result = VaultRekeyPage
    roles = OWNER
    changes = True
    subject = NO_SUBJECT
    hashed = frozenset({"proof"})

    after: Text = ""
    """Where the page starts: behind the version `RECORD/VERSION`, the last one of the page before."""
    limit: Page = 100
    proof: VaultProof | None = None


class VaultRekeyWrap(Request, tag="vault.rekey.wrap"):
    """Replace the envelope of a version by one for the active management key. Key, limits and standing stay."""

    Result = Done
    roles = OWNER
    changes = True
    subject = NO_SUBJECT
    hashed = frozenset({"proof"})

    text: StatementText
    """The next statement of the version, which changes envelope, suite and management key only."""
    signature: Signature
    """By the active signing key."""
    envelope: EnvelopeBytes
    proof: VaultProof | None = None


class VaultRekeyFinish(Request, tag="vault.rekey.finish"):
    """Retire the management keys that were replaced. Refused while a deposit is wrapped for one."""

    Result = Done
    roles = OWNER
    changes = True
    subject = NO_SUBJECT
    hashed = frozenset({"proof"})

    proof: VaultProof | None = None
