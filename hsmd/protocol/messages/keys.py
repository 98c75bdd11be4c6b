"""Control requests about keys: generate, adopt, list, rename, destroy, certificate requests, history, readers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from hsmd.protocol.messages.base import (
    AUDITOR,
    FRONT_END,
    MAX_PAGE,
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
from hsmd.protocol.messages.enumerations import CERTIFICATE_STATE, KEY_FINDING, KEY_TYPE, PURPOSE
from hsmd.purposes import Purpose

__all__ = [
    "KeyAdopt",
    "KeyCandidate",
    "KeyCandidateList",
    "KeyCandidates",
    "KeyDestroy",
    "KeyGenerate",
    "KeyHistory",
    "KeyHistoryPage",
    "KeyInfo",
    "KeyList",
    "KeyNameSpan",
    "KeyOwner",
    "KeyOwnerAdd",
    "KeyOwnerList",
    "KeyOwnerRemove",
    "KeyOwners",
    "KeyPage",
    "KeyRename",
    "KeyReplace",
    "KeyReplaceBack",
    "KeyReplaceSwitch",
    "KeyReplaced",
    "KeyReplacement",
    "KeyRequest",
    "KeyShow",
    "PastKey",
    "PemDocument",
]


class KeyReplacement(Struct):
    """A new key that is to take over the name of a key, or has done so. It ends when one of the two is destroyed."""

    key: str
    """The name of the old key."""
    successor: str
    """The name of the new key."""
    begun_at: datetime
    switched_at: datetime | None = None
    """When the new key took over the name, and the old one got another; null if it has not yet."""


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
    owner: str = ""
    """The client to which the key belongs; empty if it has no owner."""
    owner_removed: bool = False
    """Whether that client was removed; a client that has its name now is not the owner."""
    certificate_mark: str = ""
    """Changes whenever the stored chain changes; empty if there is none, and from earlier versions."""
    certificate_state: Annotated[str, CERTIFICATE_STATE.meta] = ""
    """Empty if there is none, and from earlier versions."""
    replacement: KeyReplacement | None = None
    """The replacement in which it is the old or the new key; null if there is none."""


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
    subject = Subject(key="name", client="owner")

    name: Name
    key_type: KeyTypeName
    purposes: list[PurposeOrGroupLabel]
    """The key's ceiling, which cannot be changed later."""
    token: Text = ""
    """May be empty if the daemon has only one token."""
    owner: Text = ""
    """The client, with the role `owner`, to which the key belongs from now on; this cannot be changed. May be empty."""


class KeyCandidate(Struct):
    """A private key object in the token, and what the daemon makes of it; or a ceiling without a private key."""

    cka_id: str
    """Hexadecimal."""
    cka_label: str
    key_type: Annotated[str, KEY_TYPE.meta]
    """Empty if its public half is unknown."""
    unsafe: list[str]
    """Its unsafe attributes, in words."""
    finding: Annotated[str, KEY_FINDING.meta] = ""
    why: str = ""
    """The reason of the finding, in words; may be empty."""
    next_step: str = ""
    """What to do, as a command or in words; empty if there is nothing to do."""
    digest: str = ""
    """SHA-256 of its public key, in hexadecimal; empty if that is unknown."""
    shared: int = 0
    """The number of other private key objects with its CKA_ID."""


class KeyCandidateList(Struct):
    """Private keys of one token, or as many of them as fit."""

    token: str
    keys: list[KeyCandidate]
    cursor: str = ""
    """Asks for the others; empty if there are none."""


class KeyCandidates(Request, tag="key.candidates"):
    """List what the token holds of keys that are not served, and what the daemon makes of each."""

    Result = KeyCandidateList
    roles = OPERATOR
    changes = False
    subject = NO_SUBJECT

    token: Text = ""
    """May be empty if the daemon has only one token."""
    cursor: Text = ""
    """From the last answer, to get the next ones; empty to search the token."""
    served: bool = False
    """List the keys that are served too."""


class KeyAdopt(Request, tag="key.adopt"):
    """Serve a key that is in the token already. Give its CKA_ID, its CKA_LABEL, its digest, or its certificate alone."""

    Result = KeyInfo
    roles = OPERATOR
    changes = True
    subject = Subject(key="name", client="owner")
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
    """A PEM certificate with the public half, for tokens that hold none. It decides among keys that share a CKA_ID."""
    key_digest: Text = ""
    """SHA-256 of its public key, in hexadecimal, for keys that no CKA_ID and no label names."""
    accept_unsafe: bool = False
    """Adopt the key although it has unsafe attributes (extractable, not sensitive, may sign and decrypt, ...)."""
    owner: Text = ""
    """The client, with the role `owner`, to which the key belongs from now on; this cannot be changed. May be empty."""
    weaknesses: list[Text] = []
    """Why the key is weak, if it was imported although it is; they are among the key's warnings from then on."""


class KeyList(Request, tag="key.list"):
    """List keys: to operators and auditors all, to a front end those on which it has a grant, to an owner its own."""

    Result = KeyPage
    roles = OPERATOR | AUDITOR | FRONT_END | OWNER
    changes = False
    subject = NO_SUBJECT
    agents = True

    after: Text = ""
    """Where the page starts: behind the key of this name, the last one of the page before."""
    limit: Page = 100


class KeyShow(Request, tag="key.show"):
    """Return one key. A front end needs a grant on it, an owner must own it."""

    Result = KeyInfo
    roles = OPERATOR | AUDITOR | FRONT_END | OWNER
    changes = False
    subject = Subject(key="name")
    agents = True

    name: Name


class KeyNameSpan(Struct):
    """A name of a key, and the time in which the key had it."""

    name: str
    since: datetime
    until: datetime | None


class PastKey(Struct):
    """A key that is not served any more."""

    number: int
    digest: str
    """SHA-256 of its public key (DER SubjectPublicKeyInfo), hexadecimal."""
    owner: str
    """The client to which it belongs; empty if it has no owner."""
    owner_removed: bool
    """Whether that client was removed; a client that has its name now is not the owner."""
    made_at: datetime
    destroyed_at: datetime | None
    names: list[KeyNameSpan]
    """Its names in their order."""


class KeyHistoryPage(Struct):
    """Keys in the order in which they were made."""

    keys: list[PastKey]
    more: bool
    """Whether there are further ones."""


class KeyHistory(Request, tag="key.history"):
    """List the keys that were destroyed: to an owner its own, to operators and auditors all."""

    Result = KeyHistoryPage
    roles = OPERATOR | AUDITOR | OWNER
    changes = False
    subject = NO_SUBJECT

    after: Annotated[int, Meta(ge=0, lt=1 << 31)] = 0
    """Where the page starts: behind the key with this number, the last one of the page before."""
    limit: Page = 100


class KeyDestroy(Request, tag="key.destroy"):
    """Destroy a key in the token permanently. Its history stays, and its owner can read it."""

    Result = Done
    roles = OPERATOR
    changes = True
    subject = Subject(key="name")

    name: Name
    confirm: Text
    """The name once more."""


class KeyRename(Request, tag="key.rename"):
    """Give a key another name. Its grants, its owner and its certificate stay."""

    Result = Done
    roles = OPERATOR
    changes = True
    subject = Subject(key="name")

    name: Name
    new_name: Name


class KeyReplaced(Struct):
    """A step of the replacement of a key."""

    key: KeyInfo
    """The key that has the name of the request now."""
    other: KeyInfo
    """The other one of the two."""
    warnings: list[str] = []
    """What is doubtful about the certificate chain, and which grants were not copied as they were."""


class KeyReplace(Request, tag="key.replace"):
    """Begin to replace a key: make one of the same type, purposes and owner in the same token. It has a name of its own yet.

    Made again, it returns what the first one made.
    """

    Result = KeyReplaced
    roles = OPERATOR
    changes = True
    subject = Subject(key="name")

    name: Name


class KeyReplaceSwitch(Request, tag="key.replace.switch"):
    """Give the name of a key, copies of its grants and its readers to the new key, with this certificate chain.

    The old key keeps its grants and its certificate, and gets another name. Of a grant with a limited number of uses the new
    key gets as many as are left. The chain is checked as by [cert.import](#certimport).
    """

    Result = KeyReplaced
    roles = OPERATOR
    changes = True
    subject = Subject(key="name")
    hashed = frozenset({"chain"})

    name: Name
    chain: Pem
    """PEM: the certificate of the new key, then its issuers, each behind the certificate that it issued."""
    force: bool = False
    """Store the chain in spite of faults."""


class KeyReplaceBack(Request, tag="key.replace.back"):
    """Give the name back to the old key. The new one keeps its grants and its certificate, and gets another name."""

    Result = KeyReplaced
    roles = OPERATOR
    changes = True
    subject = Subject(key="name")

    name: Name


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


# Readers were called owners when these requests were defined. An owner has a key since it was made (`KeyInfo.owner`).


class KeyOwner(Struct):
    """A reader: a client that may read all audit records about a key."""

    key: str
    client: str


class KeyOwners(Struct):
    """Readers in the order of keys and clients."""

    owners: list[KeyOwner]
    more: bool = False
    """Whether there are further ones."""


class KeyOwnerAdd(Request, tag="key.owner.add"):
    """Make a client a reader of a key: it may read all audit records about the key, whichever client used it."""

    Result = Done
    roles = OPERATOR
    changes = True
    subject = Subject(key="key", client="client")

    key: Name
    client: Name


class KeyOwnerRemove(Request, tag="key.owner.remove"):
    """Remove a reader of a key: the client may no longer read all audit records about it, unless it owns the key."""

    Result = Done
    roles = OPERATOR
    changes = True
    subject = Subject(key="key", client="client")

    key: Name
    client: Name


class KeyOwnerList(Request, tag="key.owner.list"):
    """List the readers of keys: clients that may read all audit records about a key, whoever owns it."""

    Result = KeyOwners
    roles = OPERATOR | AUDITOR
    changes = False
    subject = NO_SUBJECT

    after: Text = ""
    """Where the page starts: behind the reader `KEY/CLIENT`, the last one of the page before."""
    limit: Annotated[int, Meta(ge=0, le=MAX_PAGE)] = 0
    """0 for all in one answer, which is refused if it would be too long."""
