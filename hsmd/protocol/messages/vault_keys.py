"""Control requests about management keys: challenges, registration, confirmation, replacement."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Struct

from hsmd.protocol.messages.base import (
    AUDITOR,
    NO_SUBJECT,
    OPERATOR,
    OWNER,
    Done,
    Name,
    Page,
    Request,
    Subject,
    Text,
)
from hsmd.protocol.messages.vault_enumerations import MANAGEMENT_KEY_STATE
from hsmd.protocol.messages.vault_types import (
    PublicKeyDer,
    Signature,
    StatementText,
    VaultProof,
    Version,
)

__all__ = [
    "ManagementKeyInfo",
    "ManagementKeyList",
    "VaultChallenge",
    "VaultChallenged",
    "VaultConfirm",
    "VaultKeys",
    "VaultRegister",
    "VaultRegistered",
]

StateName = Annotated[str, MANAGEMENT_KEY_STATE.meta]


class VaultChallenged(Struct, omit_defaults=True):
    """A challenge. It is answered on the same SSH connection, once."""

    nonce: bytes
    """32 random bytes."""
    daemon: str
    """The daemon's name, which is in the text of the proof."""
    expires_s: int
    """How long it can be answered, in seconds."""
    opened: bytes = b""
    """An envelope with a secret of 32 bytes, sealed to the wrapping key; empty if it was not asked for."""
    possession: bytes = b""
    """An envelope with a secret of 32 bytes, sealed to the key that is to be deposited; empty if it was not asked for."""


class VaultChallenge(Request, tag="vault.challenge"):
    """Ask for a challenge, which a proof of a request of this session answers."""

    Result = VaultChallenged
    roles = OWNER
    changes = False
    subject = NO_SUBJECT

    verb: Text
    """The operation that will be requested, such as `vault.get`."""
    record: Text = ""
    """The record that it will name; empty for none."""
    version: Version = 0
    """The version that it will name; 0 for none."""
    open: bool = False
    """Whether to seal a secret to the wrapping key, for a proof of the kind `opened`."""
    wrapping: PublicKeyDer = b""
    """With `open`: the wrapping key, if it is one that is about to be registered; empty for that of the active management key."""
    suite: Text = ""
    """With `open`: the suite to seal with ([envelopes.md](envelopes.md)); empty for the strongest one that fits the key."""
    key: PublicKeyDer = b""
    """A public key that does not sign, to seal a secret to: for `vault.put`."""


class VaultRegistered(Struct):
    """A management key that was registered."""

    state: StateName
    fingerprint: str
    """`SHA256:` and base64, of the key's statement: what an operator confirms."""


class VaultRegister(Request, tag="vault.register"):
    """Register the first management key, or one that replaces a lost one. It counts once an operator has confirmed it.

    Registered again, it takes the place of one that no operator has confirmed.
    """

    Result = VaultRegistered
    roles = OWNER
    changes = True
    subject = NO_SUBJECT
    hashed = frozenset({"wrapping_proof"})

    text: StatementText
    """The statement of the key."""
    signature: Signature
    """Of the text, by the signing key in it."""
    wrapping_proof: VaultProof | None = None
    """That the wrapping key can open, of the kind `opened`; null for a symmetric one."""


class VaultConfirm(Request, tag="vault.confirm"):
    """Confirm the management key that a client has registered. Deposits under one that it replaces without its help are lost.

    After a restore the active management key has to be confirmed again, if the client has not replaced it since the backup.
    Compare the fingerprint with what the owner's `hsmd vault keygen` has shown, over another channel than hsmd.
    """

    Result = Done
    roles = OPERATOR
    changes = True
    subject = Subject(client="owner")

    owner: Name
    fingerprint: Text
    """`SHA256:` and base64."""


class ManagementKeyInfo(Struct, omit_defaults=True):
    """A management key of an owner."""

    number: int
    state: StateName
    fingerprint: str
    text: bytes
    """Its statement."""
    signature: bytes
    """Of the statement, by the signing key in it."""
    created_at: datetime
    succession: bytes = b""
    """Of the statement, by the signing key of the management key before; empty for one that an operator confirmed."""
    confirmation: str = ""
    """The daemon's statement that an operator has confirmed it; empty for one that has a succession."""
    deposits: int = 0
    """Versions of records that are wrapped for it."""
    held: bool = False
    """Whether the store was restored, and no operator has confirmed the active key since: it may have been replaced meanwhile.
    It proves nothing until then."""


class ManagementKeyList(Struct):
    """The management keys of an owner, the newest first."""

    keys: list[ManagementKeyInfo]
    more: bool = False
    """Whether there are further ones."""


class VaultKeys(Request, tag="vault.keys"):
    """List the management keys of an owner."""

    Result = ManagementKeyList
    roles = OWNER | OPERATOR | AUDITOR
    changes = False
    subject = NO_SUBJECT

    owner: Text = ""
    """Empty for the caller; only operators and auditors name others."""
    before: Version = 0
    """Where the page starts: with the key before the one of this number, the last of the page before; 0 for the newest."""
    limit: Page = 100
