"""Control requests about the certificates of keys."""

from __future__ import annotations

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
    Name,
    Pem,
    Request,
    Subject,
    Text,
)
from hsmd.protocol.messages.keys import KeyInfo, PemDocument

__all__ = [
    "CertificateChains",
    "CertificateExport",
    "CertificateImport",
    "CertificateSelfSigned",
    "ChainPage",
    "KeyChain",
]


class CertificateImport(Request, tag="cert.import"):
    """Store the certificate chain of a key. The result's `warnings` include what is doubtful about the chain."""

    Result = KeyInfo
    roles = OPERATOR
    changes = True
    subject = Subject(key="key")
    hashed = frozenset({"chain"})

    key: Name
    chain: Pem
    """PEM: the certificate of the key, then its issuers, each behind the certificate that it issued."""


class CertificateSelfSigned(Request, tag="cert.self-signed"):
    """Make and store a self-signed certificate for a key."""

    Result = PemDocument
    roles = OPERATOR
    changes = True
    subject = Subject(key="key")

    key: Name
    dns_names: list[DnsName]
    ip_addresses: list[Text] = []
    days: Annotated[int, Meta(ge=1, le=3660)] = 30
    """How long it is valid, from now on."""


class CertificateExport(Request, tag="cert.export"):
    """Return the stored certificate chain of a key. A front end needs a grant on the key, an owner must own it."""

    Result = PemDocument
    roles = OPERATOR | AUDITOR | FRONT_END | OWNER
    changes = False
    subject = Subject(key="key")

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

    keys: Annotated[list[Name], Meta(min_length=1, max_length=MAX_PAGE)]
