"""Control requests about checks: whether a public key is one that an owner has deposited, and who may ask."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from hsmd.protocol.messages.base import ANY_ROLE, NO_SUBJECT, OWNER, Done, Name, Page, Request, Text
from hsmd.protocol.messages.vault_enumerations import VAULT_VERDICT
from hsmd.protocol.messages.vault_types import PublicKeyDer, VaultProof

__all__ = [
    "VaultAllow",
    "VaultAllowed",
    "VaultAllowedList",
    "VaultCheck",
    "VaultCheckPage",
    "VaultCheckSum",
    "VaultChecked",
    "VaultChecks",
    "VaultDisallow",
]


class VaultAllow(Request, tag="vault.allow"):
    """Let a client, or every client with the role `checker`, check public keys against the caller's records."""

    Result = Done
    roles = OWNER
    changes = True
    subject = NO_SUBJECT
    hashed = frozenset({"proof"})

    client: Text = ""
    """The client; empty with `checkers`."""
    checkers: bool = False
    """Every client with the role `checker`."""
    proof: VaultProof | None = None


class VaultDisallow(Request, tag="vault.disallow"):
    """Withdraw what `vault.allow` has allowed."""

    Result = Done
    roles = OWNER
    changes = True
    subject = NO_SUBJECT
    hashed = frozenset({"proof"})

    client: Text = ""
    """The client; empty with `checkers`."""
    checkers: bool = False
    """Every client with the role `checker`."""
    proof: VaultProof | None = None


class VaultAllowedList(Struct):
    """Who may check."""

    clients: list[str]
    """Names of clients."""
    checkers: bool = False
    """Whether every client with the role `checker` may."""


class VaultAllowed(Request, tag="vault.allowed"):
    """List who may check public keys against the caller's records."""

    Result = VaultAllowedList
    roles = OWNER
    changes = False
    subject = NO_SUBJECT


class VaultChecked(Struct):
    """The answer to a check."""

    statement: str
    """A statement of the kind `vault-answer`: [vault-formats.md](vault-formats.md), section 10."""


class VaultCheck(Request, tag="vault.check"):
    """Ask whether a public key is one that an owner has deposited, and how that version stands.

    The verdict is `no-answer` if the owner has not allowed the caller to ask, and likewise if there is no such owner.
    """

    Result = VaultChecked
    roles = ANY_ROLE
    changes = False
    subject = NO_SUBJECT

    owner: Name
    key: PublicKeyDer
    nonce: Annotated[bytes, Meta(min_length=16, max_length=32)]
    """Of the caller; it is in the answer."""
    record: Text = ""
    """Only this record of the owner; empty for all."""


class VaultCheckSum(Struct):
    """How often a client has checked with the same result on one day (UTC)."""

    asker: str
    record: str
    """The record that matched; empty if none did."""
    verdict: Annotated[str, VAULT_VERDICT.meta]
    day: str
    """YYYY-MM-DD."""
    count: int
    last_at: datetime


class VaultCheckPage(Struct):
    """Sums of checks, the oldest first."""

    sums: list[VaultCheckSum]
    cursor: str = ""
    """The `after` of the next page."""
    more: bool = False
    """Whether there are further ones."""


class VaultChecks(Request, tag="vault.checks"):
    """Read who has checked public keys against the caller's records."""

    Result = VaultCheckPage
    roles = OWNER
    changes = False
    subject = NO_SUBJECT

    after: Text = ""
    """The `cursor` of the page before; empty for the oldest sums that are kept."""
    limit: Page = 100
