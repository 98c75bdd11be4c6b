"""Control requests about clients and what they come with."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from hsmd.protocol.messages.base import (
    ANY_ROLE,
    AUDITOR,
    NO_SUBJECT,
    OPERATOR,
    Done,
    Name,
    Page,
    PurposeLabel,
    Request,
    Subject,
    Text,
)

__all__ = [
    "ClientAdd",
    "ClientDistrustCa",
    "ClientEnroll",
    "ClientInfo",
    "ClientList",
    "ClientPage",
    "ClientRemove",
    "ClientRename",
    "ClientRevoke",
    "ClientRevoked",
    "ClientRotateKey",
    "ClientTrustCa",
    "EnrolmentTicket",
    "Revocation",
    "RevocationPage",
    "WantedGrant",
]


class ClientInfo(Struct):
    """A client and the credentials it may come with (SHA-256 fingerprints as OpenSSH prints them)."""

    name: str
    role: str
    fingerprints: list[str]
    created_at: datetime


class ClientPage(Struct):
    """Clients in the order of their names."""

    clients: list[ClientInfo]
    more: bool


class ClientAdd(Request, tag="client.add"):
    """Operator: a new client, or a further key for one; `public_key` is one OpenSSH public key line, empty for a
    client that comes with certificates only."""

    Result = ClientInfo
    roles = OPERATOR
    changes = True
    subject = Subject(client="name")
    hashed = frozenset({"public_key"})

    name: Name
    role: Text = "front-end"
    public_key: Annotated[str, Meta(max_length=2_000)] = ""


class ClientList(Request, tag="client.list"):
    """Operator, auditor."""

    Result = ClientPage
    roles = OPERATOR | AUDITOR
    changes = False
    subject = NO_SUBJECT

    after: Text = ""
    limit: Page = 100


class ClientRemove(Request, tag="client.remove"):
    """Operator: remove a client, its credentials and its grants; open connections of it are closed."""

    Result = Done
    roles = OPERATOR
    changes = True
    subject = Subject(client="name")

    name: Name


class ClientRename(Request, tag="client.rename"):
    """Operator: give a client another name; credentials and grants stay, its open connections are closed."""

    Result = Done
    roles = OPERATOR
    changes = True
    subject = Subject(client="name")

    name: Name
    new_name: Name


class ClientTrustCa(Request, tag="client.trust-ca"):
    """Operator: accept user certificates of this OpenSSH CA key for the named clients only. Certificates valid for more
    than `max_lifetime_s` in all are refused; 0 for any lifetime."""

    Result = Done
    roles = OPERATOR
    changes = True
    subject = NO_SUBJECT
    hashed = frozenset({"public_key"})

    public_key: Annotated[str, Meta(max_length=2_000)]
    clients: list[Name]
    max_lifetime_s: Annotated[int, Meta(ge=0, le=10 * 366 * 86_400)] = 86_400


class ClientDistrustCa(Request, tag="client.distrust-ca"):
    """Operator: accept no certificates of this CA any more; connections made with them are closed."""

    Result = Done
    roles = OPERATOR
    changes = True
    subject = NO_SUBJECT
    hashed = frozenset({"public_key"})

    public_key: Annotated[str, Meta(max_length=2_000)]


class ClientRevoke(Request, tag="client.revoke"):
    """Operator: refuse a credential from now on, for ever, and close the connections made with it. Give exactly one of
    `fingerprint` (of a public key, certified or not, or of a CA), `serial` (decimal) and `key_id`; the last two with
    `ca`, the fingerprint of the CA that issued the certificate. `changed` is false if it was revoked already."""

    Result = Done
    roles = OPERATOR
    changes = True
    subject = NO_SUBJECT

    fingerprint: Text = ""
    ca: Text = ""
    serial: Text = ""
    key_id: Text = ""


class Revocation(Struct):
    """A revoked credential: `kind` is `key`, `serial` or `key-id`."""

    kind: str
    ca: str
    value: str
    created_at: datetime


class RevocationPage(Struct):
    """Revoked credentials in the order of kind, CA and value."""

    revocations: list[Revocation]
    more: bool


class ClientRevoked(Request, tag="client.revoked"):
    """Operator, auditor: the revoked credentials behind position `after`."""

    Result = RevocationPage
    roles = OPERATOR | AUDITOR
    changes = False
    subject = NO_SUBJECT

    after: Annotated[int, Meta(ge=0)] = 0
    limit: Page = 100


class ClientRotateKey(Request, tag="client.rotate-key"):
    """Anybody who comes with a key: `public_key` will be my next key; one only, beside the one I come with now. Empty, over a
    connection made with that next key: take away the one before. `changed` is false if it was so already."""

    Result = Done
    roles = ANY_ROLE
    changes = True
    subject = NO_SUBJECT
    hashed = frozenset({"public_key"})

    public_key: Annotated[str, Meta(max_length=2_000)] = ""


class WantedGrant(Struct, forbid_unknown_fields=True):
    """A key, and the purposes a new client is to have on it."""

    key: Name
    purposes: list[PurposeLabel]

    def __str__(self) -> str:
        return f"{self.key}:{'+'.join(self.purposes)}"


class EnrolmentTicket(Struct):
    """`token` is a secret: whoever has it can become the client once, until `expires_at`. It pins the daemon's host key
    and says at which `address` to find it."""

    token: str
    address: str
    expires_at: datetime


class ClientEnroll(Request, tag="client.enroll"):
    """Operator: a one-time token for a client, made if there is none of that name, with these grants. An earlier token of
    that client is void. `address` is where the new client finds the daemon, if not at its first listening address."""

    Result = EnrolmentTicket
    roles = OPERATOR
    changes = True
    subject = Subject(client="name")

    name: Name
    role: Text = "front-end"
    grants: Annotated[list[WantedGrant], Meta(max_length=100)] = []
    address: Annotated[str, Meta(max_length=270)] = ""
