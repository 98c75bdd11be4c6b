"""Control requests about keys: generate, adopt, list, rename, destroy, certificate requests, owners."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Struct

from hsmd.protocol.messages.base import (
    AUDITOR,
    FRONT_END,
    NO_SUBJECT,
    OPERATOR,
    OWNER,
    DnsName,
    Done,
    KeyTypeName,
    Name,
    Page,
    Pem,
    PurposeOrGroupLabel,
    Request,
    Subject,
    Text,
)
from hsmd.protocol.messages.enumerations import KEY_TYPE, PURPOSE
from hsmd.purposes import Purpose

__all__ = [
    "KeyAdopt",
    "KeyCandidate",
    "KeyCandidateList",
    "KeyCandidates",
    "KeyDestroy",
    "KeyGenerate",
    "KeyInfo",
    "KeyList",
    "KeyOwner",
    "KeyOwnerAdd",
    "KeyOwnerList",
    "KeyOwnerRemove",
    "KeyOwners",
    "KeyPage",
    "KeyRename",
    "KeyRequest",
    "KeyShow",
    "PemDocument",
]


class KeyInfo(Struct):
    """A key that the daemon serves."""

    name: str
    key_type: Annotated[str, KEY_TYPE.meta]
    digest: str
    """SHA-256 of `public_key`, hexadecimal."""
    public_key: bytes
    """DER SubjectPublicKeyInfo (RFC 5280, section 4.1)."""
    purposes: list[Annotated[str, PURPOSE.meta]]
    """The key's ceiling: no grant reaches beyond it, and it cannot be changed."""
    token: str
    """Name, in the daemon's configuration, of the token that holds the key."""
    created_at: datetime
    certificate_not_after: datetime | None = None
    """When the stored certificate ends; null if there is none."""
    warnings: list[str] = []
    """What was unsafe about the key when it was adopted."""


class KeyPage(Struct):
    """Keys in the order of their names."""

    keys: list[KeyInfo]
    more: bool
    """Whether there are further ones."""


class KeyGenerate(Request, tag="key.generate"):
    """Generate a key in the token."""

    Result = KeyInfo
    roles = OPERATOR
    changes = True
    subject = Subject(key="name")

    name: Name
    key_type: KeyTypeName
    purposes: list[PurposeOrGroupLabel]
    """The key's ceiling, which cannot be changed later."""
    token: Text = ""
    """May be empty if the daemon has only one token."""


class KeyCandidate(Struct):
    """A private key in the token that the daemon does not serve yet."""

    cka_id: str
    """Hexadecimal."""
    cka_label: str
    key_type: Annotated[str, KEY_TYPE.meta]
    """Empty if its public half is unknown."""
    unsafe: list[str]
    """Its unsafe attributes, in words."""


class KeyCandidateList(Struct):
    """The keys of one token that could be adopted."""

    token: str
    keys: list[KeyCandidate]


class KeyCandidates(Request, tag="key.candidates"):
    """List the private keys in the token that could be adopted, and what is unsafe about each."""

    Result = KeyCandidateList
    roles = OPERATOR
    changes = False
    subject = NO_SUBJECT

    token: Text = ""
    """May be empty if the daemon has only one token."""


class KeyAdopt(Request, tag="key.adopt"):
    """Serve a key that is in the token already. Give its CKA_ID or its CKA_LABEL, or both."""

    Result = KeyInfo
    roles = OPERATOR
    changes = True
    subject = Subject(key="name")
    hashed = frozenset({"certificate"})

    name: Name
    purposes: list[PurposeOrGroupLabel] = []
    """The key's ceiling, which cannot be changed later. May be empty if the token holds the ceiling already."""
    token: Text = ""
    """May be empty if the daemon has only one token."""
    cka_id: Text = ""
    """Hexadecimal."""
    cka_label: Text = ""
    certificate: Pem = ""
    """A PEM certificate with the public half, for tokens that hold none."""
    accept_unsafe: bool = False
    """Adopt the key although it has unsafe attributes (extractable, not sensitive, may sign and decrypt, ...)."""


class KeyList(Request, tag="key.list"):
    """List keys: to operators and auditors all, to a front end those on which it has a grant, to an owner its own."""

    Result = KeyPage
    roles = OPERATOR | AUDITOR | FRONT_END | OWNER
    changes = False
    subject = NO_SUBJECT

    after: Text = ""
    """Where the page starts: behind the key of this name, the last one of the page before."""
    limit: Page = 100


class KeyShow(Request, tag="key.show"):
    """Return one key. A front end needs a grant on it, an owner must own it."""

    Result = KeyInfo
    roles = OPERATOR | AUDITOR | FRONT_END | OWNER
    changes = False
    subject = Subject(key="name")

    name: Name


class KeyDestroy(Request, tag="key.destroy"):
    """Destroy a key in the token permanently."""

    Result = Done
    roles = OPERATOR
    changes = True
    subject = Subject(key="name")

    name: Name
    confirm: Text
    """The name once more."""


class KeyRename(Request, tag="key.rename"):
    """Give a key another name. Its grants and its certificate stay."""

    Result = Done
    roles = OPERATOR
    changes = True
    subject = Subject(key="name")

    name: Name
    new_name: Name


class PemDocument(Struct):
    """A PEM document."""

    pem: str


class KeyRequest(Request, tag="key.csr"):
    """Make a PKCS#10 certificate request (RFC 2986), signed by the key.

    A front end needs a grant on the key for `x509-request`, and may request a certificate for the names that the grant
    allows.
    """

    Result = PemDocument
    roles = OPERATOR | FRONT_END
    changes = True
    subject = Subject(key="name")
    needs = Purpose.X509_REQUEST

    name: Name
    common_name: Text = ""
    dns_names: list[DnsName] = []
    ip_addresses: list[Text] = []
    organization: Text = ""


class KeyOwner(Struct):
    """A client that may read all audit records about a key."""

    key: str
    client: str


class KeyOwners(Struct):
    """Owners in the order of keys and clients."""

    owners: list[KeyOwner]


class KeyOwnerAdd(Request, tag="key.owner.add"):
    """Let a client read all audit records about a key, also those about other clients that use it."""

    Result = Done
    roles = OPERATOR
    changes = True
    subject = Subject(key="key", client="client")

    key: Name
    client: Name


class KeyOwnerRemove(Request, tag="key.owner.remove"):
    """Stop letting a client read all audit records about a key."""

    Result = Done
    roles = OPERATOR
    changes = True
    subject = Subject(key="key", client="client")

    key: Name
    client: Name


class KeyOwnerList(Request, tag="key.owner.list"):
    """List the owners of keys: clients that may read all audit records about a key."""

    Result = KeyOwners
    roles = OPERATOR | AUDITOR
    changes = False
    subject = NO_SUBJECT
