"""Control requests about the certificates of keys."""

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
    Name,
    Page,
    Pem,
    Request,
    Subject,
    Text,
)
from hsmd.protocol.messages.enumerations import SERVED_STATE
from hsmd.protocol.messages.keys import KeyInfo, PemDocument

__all__ = [
    "CertificateChains",
    "CertificateExport",
    "CertificateImport",
    "CertificateReport",
    "CertificateSelfSigned",
    "CertificateServed",
    "ChainPage",
    "KeyChain",
    "ServedBy",
    "ServedByPage",
    "ServedCertificate",
]


class CertificateImport(Request, tag="cert.import"):
    """Store the certificate chain of a key. The result's `warnings` include what is doubtful about the chain.

    A chain with which handshakes fail is refused, and so is a certificate that was issued before the one that is stored.
    """

    Result = KeyInfo
    roles = OPERATOR
    changes = True
    subject = Subject(key="key")
    hashed = frozenset({"chain"})

    key: Name
    chain: Pem
    """PEM: the certificate of the key, then its issuers, each behind the certificate that it issued."""
    force: bool = False
    """Store the chain nevertheless; the reasons for a refusal are warnings then. It must be of this key all the same."""


class CertificateSelfSigned(Request, tag="cert.self-signed"):
    """Make and store a self-signed certificate for a key.

    Refused if the stored certificate was issued by a CA and has not ended: clients would refuse the new one.
    """

    Result = PemDocument
    roles = OPERATOR
    changes = True
    subject = Subject(key="key")

    key: Name
    dns_names: list[DnsName]
    ip_addresses: list[Text] = []
    days: Annotated[int, Meta(ge=1, le=3660)] = 30
    """How long it is valid, from now on."""
    force: bool = False
    """Replace the certificate of a CA nevertheless."""


class CertificateExport(Request, tag="cert.export"):
    """Return the stored certificate chain of a key. A front end needs a grant on the key, an owner must own it."""

    Result = PemDocument
    roles = OPERATOR | AUDITOR | FRONT_END | OWNER
    changes = False
    subject = Subject(key="key")
    agents = True

    key: Name


class KeyChain(Struct):
    """The stored certificate chain of a key."""

    key: str
    pem: str
    mark: str
    """The member `certificate_mark` of the key (`KeyInfo`)."""


class ChainPage(Struct):
    """Chains in the order in which they were asked for."""

    chains: list[KeyChain]
    answered: int
    """How many of the keys, from the first one on, were looked at; ask again for the others."""


class CertificateChains(Request, tag="cert.chains"):
    """Return the stored certificate chains of several keys, as many as fit into an answer.

    Keys that have none are left out, and so are keys on which a front end has no grant, or which an owner does not own.
    """

    Result = ChainPage
    roles = OPERATOR | AUDITOR | FRONT_END | OWNER
    changes = False
    subject = NO_SUBJECT
    agents = True

    keys: Annotated[list[Name], Meta(min_length=1, max_length=MAX_PAGE)]


class ServedCertificate(Struct, forbid_unknown_fields=True):
    """The certificate that a front end serves for a key."""

    key: Name
    certificate: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    """SHA-256 of the leaf (DER), hexadecimal."""

    def __str__(self) -> str:
        return f"{self.key}:{self.certificate}"


class CertificateReport(Request, tag="cert.report"):
    """Report which certificates this front end serves. Keys on which it has no grant are passed over.

    It is recorded only if it differs from what was reported before; reports of other keys stay.
    """

    Result = Done
    roles = FRONT_END
    changes = True
    subject = NO_SUBJECT
    hashed = frozenset({"served"})

    served: Annotated[list[ServedCertificate], Meta(min_length=1, max_length=MAX_PAGE)]


class ServedBy(Struct):
    """A front end that has a grant on a key, and the certificate that it has reported to serve."""

    client: str
    state: Annotated[str, SERVED_STATE.meta]
    certificate: str = ""
    """SHA-256 of the leaf (DER), hexadecimal; empty if it has reported none."""
    since: datetime | None = None
    """When it reported that for the first time."""


class ServedByPage(Struct):
    """Front ends in the order of their names."""

    certificate: str
    """SHA-256 of the leaf (DER) that is stored for the key, hexadecimal; empty if there is none."""
    clients: list[ServedBy]
    more: bool
    """Whether there are further ones."""


class CertificateServed(Request, tag="cert.served"):
    """List the front ends that have a grant on a key, and which certificate each of them serves."""

    Result = ServedByPage
    roles = OPERATOR | AUDITOR
    changes = False
    subject = Subject(key="key")

    key: Name
    after: Text = ""
    """Where the page starts: behind the client of this name, the last one of the page before."""
    limit: Page = 100
