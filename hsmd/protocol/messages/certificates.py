"""Control requests about the certificates that belong to keys."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from hsmd.protocol.messages.base import (
    AUDITOR,
    FRONT_END,
    OPERATOR,
    DnsName,
    Name,
    Pem,
    Request,
    Subject,
    Text,
)
from hsmd.protocol.messages.keys import KeyInfo, PemDocument

__all__ = ["CertificateExport", "CertificateImport", "CertificateSelfSigned"]


class CertificateImport(Request, tag="cert.import"):
    """Operator: store the chain (PEM, leaf first) that belongs to a key."""

    Result = KeyInfo
    roles = OPERATOR
    changes = True
    subject = Subject(key="key")
    hashed = frozenset({"chain"})

    key: Name
    chain: Pem


class CertificateSelfSigned(Request, tag="cert.self-signed"):
    """Operator: make and store a self-signed certificate for a key."""

    Result = PemDocument
    roles = OPERATOR
    changes = True
    subject = Subject(key="key")

    key: Name
    dns_names: list[DnsName]
    ip_addresses: list[Text] = []
    days: Annotated[int, Meta(ge=1, le=3660)] = 30


class CertificateExport(Request, tag="cert.export"):
    """Operator, auditor; front end for keys it has a grant on: the stored chain."""

    Result = PemDocument
    roles = OPERATOR | AUDITOR | FRONT_END
    changes = False
    subject = Subject(key="key")

    key: Name
