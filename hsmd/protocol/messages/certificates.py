"""Control requests about the certificates that belong to keys."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from hsmd.protocol.messages.base import DnsName, Name, Pem, Request, Text
from hsmd.protocol.messages.keys import KeyInfo, PemDocument


class CertificateImport(Request, tag="cert.import"):
    """Operator: store the chain (PEM, leaf first) that belongs to a key."""

    Result: ClassVar = KeyInfo
    key: Name
    chain: Pem


class CertificateSelfSigned(Request, tag="cert.self-signed"):
    """Operator: make and store a self-signed certificate for a key."""

    Result: ClassVar = PemDocument
    key: Name
    dns_names: list[DnsName]
    ip_addresses: list[Text] = []
    days: Annotated[int, Meta(ge=1, le=3660)] = 30


class CertificateExport(Request, tag="cert.export"):
    """Operator, auditor; front end for keys it has a grant on: the stored chain."""

    Result: ClassVar = PemDocument
    key: Name


REQUESTS: tuple[type[Request], ...] = (CertificateImport, CertificateSelfSigned, CertificateExport)
