"""Control requests about nodes, and those that nodes make: certificates and trust anchors (docs/authority.md)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from hsmd.protocol.messages.authorities import Names, OptionalSeconds, Profile
from hsmd.protocol.messages.base import (
    AUDITOR,
    NO_SUBJECT,
    NODE,
    OPERATOR,
    DnsName,
    Done,
    Name,
    Page,
    Request,
    Subject,
    Text,
)

__all__ = [
    "CaAllow",
    "CaAllowed",
    "CaDisallow",
    "NodeAnchors",
    "NodeCertificate",
    "NodeDocuments",
    "NodePermit",
    "NodePermitPage",
    "NodeTrust",
]

CertificateRequest = Annotated[str, Meta(max_length=16_000)]


class CaAllow(Request, tag="ca.allow"):
    """Let a client with the role `node` get certificates from an authority, with these names and no others.

    It takes the place of what the client was allowed before, and must be within what the authority may certify.
    """

    Result = Done
    roles = OPERATOR
    changes = True
    subject = Subject(key="authority", client="client")

    authority: Name
    client: Name
    profile: Profile
    """Not `issuing`."""
    common_name: Text = ""
    dns_names: list[DnsName] = []
    ip_addresses: Names = []
    emails: Names = []
    term_s: OptionalSeconds = 0
    """How long each certificate is valid; 0 for as long as the authority may say."""


class CaDisallow(Request, tag="ca.disallow"):
    """Issue no further certificates to a client. Those that it has stay valid until they end or are revoked."""

    Result = Done
    roles = OPERATOR
    changes = True
    subject = Subject(key="authority", client="client")

    authority: Name
    client: Name


class NodePermit(Struct):
    """What certificates a client gets from an authority."""

    client: str
    profile: str
    common_name: str
    dns_names: list[str]
    ip_addresses: list[str]
    emails: list[str]
    term_s: int
    """0 for as long as the authority may say."""
    since: datetime
    certificates: int
    """Certificates that it has got from the authority and that have not ended."""
    last_ends: datetime | None = None
    """When the last one of them ends; null if there is none."""


class NodePermitPage(Struct):
    """What clients get from an authority, in the order of their names."""

    permits: list[NodePermit]
    more: bool
    """Whether there are further ones."""


class CaAllowed(Request, tag="ca.allowed"):
    """List the clients that get certificates from an authority, and which ones."""

    Result = NodePermitPage
    roles = OPERATOR | AUDITOR
    changes = False
    subject = Subject(key="authority")

    authority: Name
    after: Text = ""
    """Where the page starts: behind the client of this name, the last one of the page before."""
    limit: Page = 100


class NodeDocuments(Struct):
    """A certificate with its chain in PEM, the node's own one first, and its term."""

    chain: str
    not_before: datetime
    not_after: datetime


class NodeCertificate(Request, tag="node.certificate"):
    """Issue a certificate to the caller: for the key of this request, with the names that an operator has allowed.

    An authority that does not exist and one that issues nothing to the caller are the same error. At most 20 certificates of
    a caller that have not ended, and one request at a time.
    """

    Result = NodeDocuments
    roles = NODE
    changes = True
    subject = NO_SUBJECT
    hashed = frozenset({"request"})

    authority: Name
    request: CertificateRequest
    """A PKCS#10 request (RFC 2986) in PEM. It proves that the caller has the key; names and extensions in it do not count."""


class NodeAnchors(Struct):
    """What a node needs to check the certificates of its peers; both are one or several documents in PEM."""

    anchors: str
    """The self-signed certificate at the end of the authority's chain."""
    revocation_lists: str
    """The newest list of the authority, and of each one above it that the daemon has; of those that have signed one."""


class NodeTrust(Request, tag="node.trust"):
    """Return the trust anchor and the revocation lists of an authority that issues certificates to the caller."""

    Result = NodeAnchors
    roles = NODE
    changes = False
    subject = NO_SUBJECT

    authority: Name
