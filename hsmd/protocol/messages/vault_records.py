"""Control requests about records of the vault: deposits, acquisitions, lists, limits, the end of a version."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from hsmd.protocol.messages.base import NO_SUBJECT, OWNER, Done, Name, Page, Request, Text
from hsmd.protocol.messages.vault_enumerations import POSSESSION_KIND
from hsmd.protocol.messages.vault_types import (
    Count,
    EnvelopeBytes,
    PublicKeyDer,
    Signature,
    SomeVersion,
    StatementText,
    VaultProof,
    VaultVersion,
    Version,
)

__all__ = [
    "SignedRecord",
    "VaultAcquired",
    "VaultDeposited",
    "VaultDestroy",
    "VaultGet",
    "VaultLimits",
    "VaultList",
    "VaultPage",
    "VaultPut",
    "VaultResume",
    "VaultRevoke",
    "VaultShow",
    "VaultStatementPage",
    "VaultStatements",
    "VaultSuspend",
    "VaultVersions",
]


class VaultDeposited(Struct):
    """A version that was deposited."""

    record: str
    version: int


class VaultPut(Request, tag="vault.put"):
    """Deposit a key in an envelope for the active management key: a new record, or the next version of one."""

    Result = VaultDeposited
    roles = OWNER
    changes = True
    subject = NO_SUBJECT
    hashed = frozenset({"proof"})

    text: StatementText
    """The first statement of the version."""
    signature: Signature
    """By the active signing key."""
    envelope: EnvelopeBytes
    public: PublicKeyDer = b""
    """The public half; empty for a symmetric key."""
    possession_kind: Annotated[str, Meta(max_length=32), POSSESSION_KIND.meta] = ""
    possession: Signature = b""
    """Shows that the key belongs to the public half, with the nonce of `proof`; empty for a symmetric key."""
    proof: VaultProof | None = None


class VaultAcquired(Struct):
    """An envelope that was given out."""

    record: str
    version: int
    envelope: bytes
    text: bytes
    """The newest statement of the version, which the envelope belongs to."""
    signature: bytes
    requests: int
    """Acquisitions that were asked for, this one included."""
    released: int
    """Those that were given out, this one included."""
    uses_left: int
    """-1 for no limit."""
    public: bytes = b""
    """The public half, a SubjectPublicKeyInfo; empty for a symmetric key."""


class VaultGet(Request, tag="vault.get"):
    """Take the envelope of a version out. The use is counted before it leaves."""

    Result = VaultAcquired
    roles = OWNER
    changes = True
    subject = NO_SUBJECT
    hashed = frozenset({"proof"})

    record: Name
    version: Version = 0
    """0 for the newest one."""
    proof: VaultProof | None = None


class VaultPage(Struct):
    """The newest version of each record, in the order of their names."""

    records: list[VaultVersion]
    more: bool = False
    """Whether there are further ones."""


class VaultList(Request, tag="vault.list"):
    """List the caller's records."""

    Result = VaultPage
    roles = OWNER
    changes = False
    subject = NO_SUBJECT

    after: Text = ""
    """Where the page starts: behind the record of this name, the last one of the page before."""
    limit: Page = 100


class VaultVersions(Struct):
    """The versions of a record, the newest first."""

    versions: list[VaultVersion]
    more: bool = False
    """Whether there are further ones."""


class VaultShow(Request, tag="vault.show"):
    """List the versions of one of the caller's records."""

    Result = VaultVersions
    roles = OWNER
    changes = False
    subject = NO_SUBJECT

    record: Name
    before: Version = 0
    """Where the page starts: with the version before this one, the last of the page before; 0 for the newest."""
    limit: Page = 100


class SignedRecord(Struct):
    """A statement of the owner about a version."""

    number: int
    text: bytes
    signature: bytes


class VaultStatementPage(Struct):
    """Statements about a version, in the order of their numbers."""

    statements: list[SignedRecord]
    more: bool = False
    """Whether there are further ones."""


class VaultStatements(Request, tag="vault.statements"):
    """Read the statements about a version of one of the caller's records."""

    Result = VaultStatementPage
    roles = OWNER
    changes = False
    subject = NO_SUBJECT

    record: Name
    version: SomeVersion
    after: Count = 0
    """Where the page starts: behind the statement of this number."""
    limit: Page = 100


class VaultLimits(Request, tag="vault.limits"):
    """Change term, maximum of uses or mode of a version, with its next statement. Uses that were counted stay counted."""

    Result = Done
    roles = OWNER
    changes = True
    subject = NO_SUBJECT
    hashed = frozenset({"proof"})

    text: StatementText
    signature: Signature
    proof: VaultProof | None = None


class VaultSuspend(Request, tag="vault.suspend"):
    """Suspend a version until it is resumed: it is not given out. It needs no management key, so that a loss can be met."""

    Result = Done
    roles = OWNER
    changes = True
    subject = NO_SUBJECT

    record: Name
    version: SomeVersion
    reason: Text = ""


class VaultResume(Request, tag="vault.resume"):
    """Resume a version that was suspended."""

    Result = Done
    roles = OWNER
    changes = True
    subject = NO_SUBJECT
    hashed = frozenset({"proof"})

    record: Name
    version: SomeVersion
    proof: VaultProof | None = None


class VaultRevoke(Request, tag="vault.revoke"):
    """Revoke a version permanently, or declare it compromised, with its next statement."""

    Result = Done
    roles = OWNER
    changes = True
    subject = NO_SUBJECT
    hashed = frozenset({"proof"})

    text: StatementText
    signature: Signature
    proof: VaultProof | None = None


class VaultDestroy(Request, tag="vault.destroy"):
    """Delete the envelope of a version, with its last statement. Its public half and its history stay."""

    Result = Done
    roles = OWNER
    changes = True
    subject = NO_SUBJECT
    hashed = frozenset({"proof"})

    text: StatementText
    signature: Signature
    proof: VaultProof | None = None
