"""Control requests about clients, their credentials, and the CAs whose certificates they may use."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct, field

from hsmd.protocol.messages.base import (
    ANY_ROLE,
    AUDITOR,
    NO_SUBJECT,
    OPERATOR,
    Done,
    KeyProof,
    Name,
    Page,
    PublicKeyLine,
    PurposeOrGroupLabel,
    Request,
    RoleName,
    RoleNames,
    Subject,
    Text,
)
from hsmd.protocol.messages.enumerations import REVOCATION_KIND, ROLE
from hsmd.protocol.messages.grants import GrantAdd

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
    "ClientRoleAdd",
    "ClientRoleRemove",
    "ClientRotateKey",
    "ClientTrustCa",
    "EnrolmentTicket",
    "Revocation",
    "RevocationPage",
    "WantedGrant",
]


class ClientInfo(Struct):
    """A client and its public keys."""

    name: str
    role: Annotated[str, ROLE.meta]
    fingerprints: list[str]
    """SHA-256 fingerprints of its public keys, as OpenSSH prints them."""
    created_at: datetime
    roles: list[Annotated[str, ROLE.meta]] = []
    """All its roles; `role` is the first."""
    revoked: list[str] = []
    """Those of `fingerprints` that were revoked."""
    connections: int = 0
    """How many connections it has to this daemon now."""
    last_seen: datetime | None = None
    """When it last logged in to this daemon, or its last connection ended; null if it has not since the daemon started."""
    invited_until: datetime | None = None
    """When its unused enrolment token ends; null if there is none."""

    def __post_init__(self) -> None:
        if self.role and not self.roles:  # from a daemon of a release with one role per client
            self.roles = [self.role]


class ClientPage(Struct):
    """Clients in the order of their names."""

    clients: list[ClientInfo]
    more: bool
    """Whether there are further ones."""


class ClientAdd(Request, tag="client.add"):
    """Add a client, or add a further public key to a client that exists."""

    Result = ClientInfo
    roles = OPERATOR
    changes = True
    subject = Subject(client="name")
    hashed = frozenset({"public_key"})

    name: Name
    role: RoleName = "front-end"
    """For a client that exists: the role that it has."""
    public_key: PublicKeyLine = ""
    """One OpenSSH public key line; empty for a client that logs in with certificates only."""
    role_set: RoleNames = field(default_factory=list, name="roles")
    """All roles of a client with several; `role` is the first of them, in the order of [Role](#role)."""


class ClientList(Request, tag="client.list"):
    """List clients."""

    Result = ClientPage
    roles = OPERATOR | AUDITOR
    changes = False
    subject = NO_SUBJECT

    after: Text = ""
    """Where the page starts: behind the client of this name, the last one of the page before."""
    limit: Page = 100


class ClientRemove(Request, tag="client.remove"):
    """Remove a client with its credentials and its grants, and close its connections."""

    Result = Done
    roles = OPERATOR
    changes = True
    subject = Subject(client="name")

    name: Name


class ClientRename(Request, tag="client.rename"):
    """Give a client another name and close its connections. Its credentials and its grants stay."""

    Result = Done
    roles = OPERATOR
    changes = True
    subject = Subject(client="name")

    name: Name
    new_name: Name


class ClientRoleAdd(Request, tag="client.role.add"):
    """Give a client a further role, which it has on the connections that it opens from then on.

    An enrolment token of the client that was not used is void then.
    """

    Result = Done
    roles = OPERATOR
    changes = True
    subject = Subject(client="name")

    name: Name
    role: RoleName


class ClientRoleRemove(Request, tag="client.role.remove"):
    """Take a role from a client, and close the connections that have it.

    With the role `front-end` a client loses its grants. Refused for a role of the client that makes the request, and for the
    only role of a client.
    """

    Result = Done
    roles = OPERATOR
    changes = True
    subject = Subject(client="name")

    name: Name
    role: RoleName


class ClientTrustCa(Request, tag="client.trust-ca"):
    """Accept user certificates of an OpenSSH CA, for the named clients only."""

    Result = Done
    roles = OPERATOR
    changes = True
    subject = NO_SUBJECT
    hashed = frozenset({"public_key"})

    public_key: PublicKeyLine
    """The CA's public key, one OpenSSH line."""
    clients: list[Name]
    max_lifetime_s: Annotated[int, Meta(ge=0, le=10 * 366 * 86_400)] = 86_400
    """Longest time between begin and end of a certificate that is accepted; 0 for no limit."""


class ClientDistrustCa(Request, tag="client.distrust-ca"):
    """Stop accepting certificates of a CA, and close the connections that were made with them."""

    Result = Done
    roles = OPERATOR
    changes = True
    subject = NO_SUBJECT
    hashed = frozenset({"public_key"})

    public_key: PublicKeyLine
    """The CA's public key, one OpenSSH line."""


class ClientRevoke(Request, tag="client.revoke"):
    """Refuse a credential permanently, and close the connections that were made with it.

    Give exactly one of `fingerprint`, `serial` and `key_id`.
    """

    Result = Done
    roles = OPERATOR
    changes = True
    subject = NO_SUBJECT

    fingerprint: Text = ""
    """Of a public key, certified or not, or of a CA."""
    ca: Text = ""
    """With `serial` or `key_id`: the fingerprint of the CA that issued the certificate."""
    serial: Text = ""
    """Serial number of a certificate, decimal."""
    key_id: Text = ""
    """Key id of certificates."""


class Revocation(Struct):
    """A revoked credential."""

    kind: Annotated[str, REVOCATION_KIND.meta]
    ca: str
    """Fingerprint of the CA that issued the certificate; empty for a public key."""
    value: str
    created_at: datetime


class RevocationPage(Struct):
    """Revoked credentials in the order of kind, CA and value."""

    revocations: list[Revocation]
    more: bool
    """Whether there are further ones."""


class ClientRevoked(Request, tag="client.revoked"):
    """List revoked credentials."""

    Result = RevocationPage
    roles = OPERATOR | AUDITOR
    changes = False
    subject = NO_SUBJECT

    after: Annotated[int, Meta(ge=0)] = 0
    """How many to skip."""
    limit: Page = 100


class ClientRotateKey(Request, tag="client.rotate-key"):
    """Replace the caller's own public key, in two requests.

    The first, over a connection made with the old key, names the next one in `public_key`; both keys are valid then. The
    second, without `public_key` and over a connection made with the next key, removes the old one. A request that changes
    nothing is not recorded; a client may make ten changes at once and then one every ten seconds.
    """

    Result = Done
    roles = ANY_ROLE
    changes = True
    subject = NO_SUBJECT
    hashed = frozenset({"public_key", "proof"})

    public_key: PublicKeyLine = ""
    """One OpenSSH public key line."""
    proof: KeyProof = ""
    """Required with `public_key`: base64 of an SSH signature by that key (RFC 4253, section 6.6) over the 28 bytes `hsmd client
    key rotation v1` and zero, and as SSH strings the client's name and the fingerprints of its current and its next key, as
    OpenSSH prints them. Daemons of earlier releases do not know this member, and need none."""


class WantedGrant(Struct, forbid_unknown_fields=True):
    """A grant for a new client."""

    key: Name
    purposes: list[PurposeOrGroupLabel]

    def __str__(self) -> str:
        return f"{self.key}:{'+'.join(self.purposes)}"


class EnrolmentTicket(Struct):
    """A one-time token with which a new client registers its public key ([protocol.md](protocol.md), section 8)."""

    token: str
    """A secret: its holder can become the client, once. It holds the daemon's address and pins its host key or host CA."""
    address: str
    """Address of the daemon in the token."""
    expires_at: datetime


class ClientEnroll(Request, tag="client.enroll"):
    """Make a one-time enrolment token for a client. The client is added if it does not exist; its earlier token is void."""

    Result = EnrolmentTicket
    roles = OPERATOR
    changes = True
    subject = Subject(client="name")

    name: Name
    role: RoleName = "front-end"
    grants: Annotated[list[WantedGrant], Meta(max_length=100)] = []
    """Grants that the client gets at once."""
    address: Annotated[str, Meta(max_length=270)] = ""
    """Where the new client reaches the daemon; empty for the daemon's first listening address."""
    role_set: RoleNames = field(default_factory=list, name="roles")
    """All roles of a client with several; `role` is the first of them, in the order of [Role](#role)."""

    def implied(self) -> Sequence[Request]:
        """The grants: each concerns the owner of its key."""
        return [GrantAdd(self.name, grant.key, grant.purposes) for grant in self.grants]
