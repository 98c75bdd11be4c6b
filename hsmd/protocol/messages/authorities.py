"""Control requests about certificate authorities and what they issue (docs/authority.md)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from hsmd.protocol.messages.base import (
    AUDITOR,
    NO_SUBJECT,
    OPERATOR,
    DnsName,
    KeyTypeName,
    Name,
    Page,
    Pem,
    Request,
    Subject,
    Text,
)
from hsmd.protocol.messages.enumerations import CERTIFICATE_PROFILE, REVOCATION_REASON
from hsmd.protocol.messages.keys import PemDocument
from hsmd.purposes.authority import LONGEST_S, MAX_COMMON_NAMES, MAX_PATH_LENGTH, SHORTEST_S
from hsmd.purposes.name_constraints import MAX_ENTRIES

__all__ = [
    "AuthorityInfo",
    "AuthorityLimits",
    "AuthorityMade",
    "AuthorityPage",
    "AuthorityShown",
    "CaCertificates",
    "CaCrl",
    "CaInit",
    "CaIssue",
    "CaList",
    "CaRenew",
    "CaRevoke",
    "CaShow",
    "CertificateRevoked",
    "IssuedCertificate",
    "IssuedInfo",
    "IssuedPage",
]

Seconds = Annotated[int, Meta(ge=SHORTEST_S, le=LONGEST_S)]
OptionalSeconds = Annotated[int, Meta(ge=0, le=LONGEST_S)]
Profile = Annotated[str, Meta(max_length=16), CERTIFICATE_PROFILE.meta]
Entries = Annotated[list[Text], Meta(max_length=MAX_ENTRIES)]
Names = Annotated[list[Text], Meta(max_length=100)]


class AuthorityLimits(Struct, forbid_unknown_fields=True):
    """What an authority may certify. It is fixed in the ceiling of its key."""

    profiles: Annotated[list[Profile], Meta(max_length=8)] = []
    """Empty for an authority that certifies other authorities only."""
    permitted_dns: Entries = []
    """Names that it may certify, with all names below them; `*` is every name."""
    permitted_ip: Entries = []
    """Networks, with their prefix."""
    permitted_email: Entries = []
    """Mailboxes, hosts, or domains that begin with a dot; `*` is every address."""
    excluded_dns: Entries = []
    excluded_ip: Entries = []
    excluded_email: Entries = []
    common_names: Annotated[list[Text], Meta(max_length=MAX_COMMON_NAMES)] = []
    """Common names besides names that are permitted; `*` is any that cannot be taken for a host."""
    path_length: Annotated[int, Meta(ge=0, le=MAX_PATH_LENGTH)] = 1
    """Authorities that may follow in a chain; the next key counts as one."""
    leaf_s: Seconds = 90 * 86_400
    """Longest term of certificates that are not an authority's, and of revocation lists."""
    authority_s: Seconds = 3_650 * 86_400
    """Longest term of certificates of authorities, its own one among them."""


class AuthorityInfo(Struct):
    """A certificate authority."""

    name: str
    """The name of its key."""
    subject: str
    """The name in its certificates, as RFC 4514 writes it."""
    digest: str
    """SHA-256 of its public key, hexadecimal."""
    token: str
    key_type: str
    limits: AuthorityLimits
    next_key: str
    """SHA-256 of the public key that will replace this one, hexadecimal; empty if none is fixed."""
    next_token: str
    """The token that holds the next key."""
    lists_at: list[str]
    """URLs of its revocation list, for certificates that it issues."""
    list_s: int
    """Seconds from one revocation list to the next."""
    list_number: int
    list_ends: datetime | None = None
    """When the newest revocation list ends; null if there is none."""
    certificate_not_after: datetime | None = None
    """When its own certificate ends; null if it waits for one of another authority."""


class AuthorityMade(Struct):
    """A new authority."""

    authority: AuthorityInfo
    chain: str = ""
    """Its certificate in PEM; empty if another authority is to issue it."""
    request: str = ""
    """The request for that, in PEM."""


class CaInit(Request, tag="ca.init"):
    """Make a certificate authority: a key that certifies what is said here, and the key that will replace it one day.

    The next key gets no ceiling yet, so no daemon uses it; the hash of it is in the ceiling and in the certificate of this one.
    """

    Result = AuthorityMade
    roles = OPERATOR
    changes = True
    subject = Subject(key="name")

    name: Name
    """The name of the key."""
    common_name: Text
    """The authority's own name, in its certificate and in all that it issues."""
    limits: AuthorityLimits
    key_type: KeyTypeName = "p-256"
    """Of the next key, too."""
    token: Text = ""
    """May be empty if the daemon has only one token."""
    lists_at: Annotated[list[Text], Meta(max_length=4)] = []
    list_s: Seconds = 7 * 86_400
    next_token: Text = ""
    """The token that gets the next key; empty for another one than that of this key, where there is one."""
    adopt: Text = ""
    """A key that is in the token already and has no purposes yet: its CKA_ID or the SHA-256 of its public key, in hexadecimal."""
    outside: bool = False
    """Another authority issues its certificate; the result has the request for it."""


class IssuedInfo(Struct):
    """A certificate that an authority has issued."""

    number: int
    serial: str
    """Hexadecimal."""
    profile: Annotated[str, CERTIFICATE_PROFILE.meta]
    subject: str
    names: list[str]
    key_digest: str
    """SHA-256 of the certified public key, hexadecimal."""
    key: str
    """The name of the key, if the daemon serves it."""
    not_before: datetime
    not_after: datetime
    signed: bool
    """Whether the certificate is there: one that is not may have been signed when a daemon was killed."""
    revoked_at: datetime | None = None
    reason: Annotated[str, REVOCATION_REASON.meta] = ""
    client: str = ""
    """The node that asked for it; empty if an operator issued it, or the node was removed."""


class IssuedCertificate(Struct):
    """A certificate, and its chain in PEM."""

    certificate: IssuedInfo
    chain: str


class CaIssue(Request, tag="ca.issue"):
    """Issue a certificate: for a key that the daemon serves, which gets the chain, or for a certificate request.

    Names are those that are given here; if none are, those of the request.
    """

    Result = IssuedCertificate
    roles = OPERATOR
    changes = True
    subject = Subject(key="authority")
    hashed = frozenset({"request"})

    authority: Name
    profile: Profile
    """`issuing` is for the key of another authority, in the same token and within the constraints of this one."""
    key: Text = ""
    """The name of the key that is certified; empty with a request."""
    request: Pem = ""
    """A PKCS#10 request (RFC 2986) in PEM."""
    common_name: Text = ""
    dns_names: list[DnsName] = []
    ip_addresses: Names = []
    emails: Names = []
    term_s: OptionalSeconds = 0
    """How long it is valid; 0 for as long as the authority may say."""
    link: bool = False
    """With the profile `issuing`: a link to the key of the next authority, which keeps its own certificate."""


class CaRenew(Request, tag="ca.renew"):
    """Issue a certificate again: for the same key, with the same profile and names, for a new term of the same length.

    Without a serial number it is the authority's own certificate, or, with a chain, stored as another authority issued it.
    """

    Result = IssuedCertificate
    roles = OPERATOR
    changes = True
    subject = Subject(key="authority")
    hashed = frozenset({"chain"})

    authority: Name
    serial: Text = ""
    """Hexadecimal, as [ca.certificates](#cacertificates) has it."""
    chain: Pem = ""
    term_s: OptionalSeconds = 0


class CertificateRevoked(Struct):
    """The answer to a revocation."""

    changed: bool
    """False if it was revoked before."""
    revocation_list: str
    """The new revocation list in PEM."""


class CaRevoke(Request, tag="ca.revoke"):
    """Revoke a certificate, and sign a new revocation list. It cannot be undone."""

    Result = CertificateRevoked
    roles = OPERATOR
    changes = True
    subject = Subject(key="authority")

    authority: Name
    serial: Text
    """Hexadecimal, as [ca.certificates](#cacertificates) has it."""
    reason: Annotated[str, Meta(max_length=32), REVOCATION_REASON.meta] = "unspecified"
    unknown_until: datetime | None = None
    """Revoke a certificate that is not in the list of what was issued, too: when it ends at the latest."""


class CaCrl(Request, tag="ca.crl"):
    """Sign a new revocation list."""

    Result = PemDocument
    roles = OPERATOR
    changes = True
    subject = Subject(key="authority")

    authority: Name


class AuthorityShown(Struct):
    """An authority with its documents in PEM; each is empty if it is not there yet."""

    authority: AuthorityInfo
    chain: str
    revocation_list: str


class CaShow(Request, tag="ca.show"):
    """Return an authority, the chain of its certificate, and its newest revocation list."""

    Result = AuthorityShown
    roles = OPERATOR | AUDITOR
    changes = False
    subject = Subject(key="authority")

    authority: Name


class AuthorityPage(Struct):
    """Authorities in the order of their names."""

    authorities: list[AuthorityInfo]
    more: bool
    """Whether there are further ones."""


class CaList(Request, tag="ca.list"):
    """List the authorities."""

    Result = AuthorityPage
    roles = OPERATOR | AUDITOR
    changes = False
    subject = NO_SUBJECT

    after: Text = ""
    """Where the page starts: behind the authority of this name, the last one of the page before."""
    limit: Page = 100


class IssuedPage(Struct):
    """Certificates in the order in which they were issued."""

    certificates: list[IssuedInfo]
    more: bool
    """Whether there are further ones."""


class CaCertificates(Request, tag="ca.certificates"):
    """List the certificates that an authority has issued."""

    Result = IssuedPage
    roles = OPERATOR | AUDITOR
    changes = False
    subject = Subject(key="authority")

    authority: Name
    revoked: bool = False
    """Only those that are revoked."""
    after: Annotated[int, Meta(ge=0, lt=1 << 31)] = 0
    """Where the page starts: behind the certificate with this number, the last one of the page before."""
    limit: Page = 100
