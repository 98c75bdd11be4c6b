"""Control requests about keys: generate, adopt, list, destroy, certificate requests."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from hsmd.protocol.messages.base import (
    AUDITOR,
    FRONT_END,
    NO_SUBJECT,
    OPERATOR,
    DnsName,
    Done,
    Name,
    Page,
    Pem,
    PurposeLabel,
    Request,
    Subject,
    Text,
)

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
    """A key as the catalogue knows it; `digest` is the SHA-256 of `public_key` (DER SubjectPublicKeyInfo), in hex."""

    name: str
    key_type: str
    digest: str
    public_key: bytes
    purposes: list[str]
    token: str
    created_at: datetime
    certificate_not_after: datetime | None = None
    warnings: list[str] = []


class KeyPage(Struct):
    """Keys in the order of their names; `more` says that there are further ones."""

    keys: list[KeyInfo]
    more: bool


class KeyGenerate(Request, tag="key.generate"):
    """Operator: generate a key in the token; `purposes` is its ceiling for ever."""

    Result = KeyInfo
    roles = OPERATOR
    changes = True
    subject = Subject(key="name")

    name: Name
    key_type: Text
    purposes: list[PurposeLabel]
    token: Text = ""


class KeyCandidate(Struct):
    """A private key of the token that hsmd does not serve yet. `key_type` is empty where its public half is unknown."""

    cka_id: str
    cka_label: str
    key_type: str
    unsafe: list[str]


class KeyCandidateList(Struct):
    """The keys of one token that could be adopted."""

    token: str
    keys: list[KeyCandidate]


class KeyCandidates(Request, tag="key.candidates"):
    """Operator: which private keys of the token could be adopted, and what is unsafe about them?"""

    Result = KeyCandidateList
    roles = OPERATOR
    changes = False
    subject = NO_SUBJECT

    token: Text = ""


class KeyAdopt(Request, tag="key.adopt"):
    """Operator: serve a key that is in the token already; named by its CKA_ID in hex, or by CKA_LABEL.

    `certificate` (PEM) gives the public half where the token has none. Unsafe attributes (extractable, not sensitive,
    may sign and decrypt, ...) are named, and refused unless `accept_unsafe`.
    """

    Result = KeyInfo
    roles = OPERATOR
    changes = True
    subject = Subject(key="name")
    hashed = frozenset({"certificate"})

    name: Name
    purposes: list[PurposeLabel] = []
    token: Text = ""
    cka_id: Text = ""
    cka_label: Text = ""
    certificate: Pem = ""
    accept_unsafe: bool = False


class KeyList(Request, tag="key.list"):
    """Operator, auditor: all keys. Front end: the keys it has a grant on."""

    Result = KeyPage
    roles = OPERATOR | AUDITOR | FRONT_END
    changes = False
    subject = NO_SUBJECT

    after: Text = ""
    limit: Page = 100


class KeyShow(Request, tag="key.show"):
    """Operator, auditor; front end for keys it has a grant on."""

    Result = KeyInfo
    roles = OPERATOR | AUDITOR | FRONT_END
    changes = False
    subject = Subject(key="name")

    name: Name


class KeyDestroy(Request, tag="key.destroy"):
    """Operator: destroy a key in the token for ever. `confirm` repeats the name."""

    Result = Done
    roles = OPERATOR
    changes = True
    subject = Subject(key="name")

    name: Name
    confirm: Text


class KeyRename(Request, tag="key.rename"):
    """Operator: give a key another name; grants and certificate stay."""

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
    """Operator: a PKCS#10 certificate request (RFC 2986) signed by the key."""

    Result = PemDocument
    roles = OPERATOR
    changes = True
    subject = Subject(key="name")

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
    """Operator: let a client read all audit records about a key, whoever used it."""

    Result = Done
    roles = OPERATOR
    changes = True
    subject = Subject(key="key", client="client")

    key: Name
    client: Name


class KeyOwnerRemove(Request, tag="key.owner.remove"):
    """Operator: take that back."""

    Result = Done
    roles = OPERATOR
    changes = True
    subject = Subject(key="key", client="client")

    key: Name
    client: Name


class KeyOwnerList(Request, tag="key.owner.list"):
    """Operator, auditor: who may read all audit records about which key?"""

    Result = KeyOwners
    roles = OPERATOR | AUDITOR
    changes = False
    subject = NO_SUBJECT
