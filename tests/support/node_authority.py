"""An authority in memory that answers a node's requests as a daemon does, with a clock of the test's."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hsmd.errors import HsmdError
from hsmd.protocol.messages import NodeAnchors, NodeCertificate, NodeDocuments, NodeTrust, Request

BACKDATED = timedelta(minutes=5)


@dataclass
class Clock:
    """The time, which a test sets."""

    now: datetime = datetime(2027, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **span: float) -> None:
        self.now += timedelta(**span)


@dataclass
class NodeAuthority:
    """A root that issues, and what it was asked. `fault` is raised in place of an answer."""

    clock: Clock
    term: timedelta = timedelta(hours=1)
    common_name: str = "Example CA 1"
    key: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    fault: HsmdError | None = None
    used: str = "192.0.2.1:7440"
    asked: list[Request] = field(default_factory=list)
    issued: list[x509.Certificate] = field(default_factory=list)
    revoked: list[int] = field(default_factory=list)
    list_number: int = 0
    above: NodeAuthority | None = None
    """The root that has certified it; None for a root."""
    after: NodeAuthority | None = None
    """The next generation, whose lists a daemon gives, too."""

    def __post_init__(self) -> None:
        self.anchors = [(self.above or self).root()]

    def root(self, ends: timedelta = timedelta(days=900)) -> x509.Certificate:
        """A self-signed certificate of its key."""
        return self._build(self._name, self._name, self.key.public_key(), timedelta(days=1), ends, ca=True)

    def ask(self, request: Request) -> object:
        self.asked.append(request)
        if self.fault is not None:
            raise self.fault
        if isinstance(request, NodeTrust):
            pem = b"".join(each.public_bytes(Encoding.PEM) for each in self.anchors)
            authorities = (self, self.above, self.after)
            lists = b"".join(
                each.list().public_bytes(Encoding.PEM) for each in authorities if each is not None
            )
            return NodeAnchors(pem.decode(), lists.decode())
        assert isinstance(request, NodeCertificate)
        csr = x509.load_pem_x509_csr(request.request.encode())
        assert csr.is_signature_valid
        assert not list(csr.subject), "a node asks for no name"
        leaf = self.issue(csr.public_key())
        own = self.root() if self.above is None else self.above.certify(self)
        chain = leaf.public_bytes(Encoding.PEM) + own.public_bytes(Encoding.PEM)
        return NodeDocuments(chain.decode(), leaf.not_valid_before_utc, leaf.not_valid_after_utc)

    def certify(self, below: NodeAuthority) -> x509.Certificate:
        """A certificate of an authority below this one."""
        ends = timedelta(days=900)
        return self._build(below._name, self._name, below.key.public_key(), timedelta(days=1), ends, ca=True)

    def issue(self, public_key: Any, name: str = "www.example.com") -> x509.Certificate:
        """A certificate for a server and client."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        leaf = self._build(
            subject, self._name, public_key, BACKDATED, self.term - BACKDATED, ca=False, host=name
        )
        self.issued.append(leaf)
        return leaf

    def list(self) -> x509.CertificateRevocationList:
        """A revocation list with the next number."""
        self.list_number += 1
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(self.clock.now)
            .next_update(self.clock.now + timedelta(days=7))
            .add_extension(x509.CRLNumber(self.list_number), critical=False)
        )
        for serial in self.revoked:
            entry = (
                x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(self.clock.now).build()
            )
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self.key, hashes.SHA256())

    @property
    def _name(self) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.common_name)])

    def _build(
        self,
        subject: x509.Name,
        issuer: x509.Name,
        public_key: Any,
        begun: timedelta,
        left: timedelta,
        *,
        ca: bool,
        host: str = "",
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.clock.now - begun)
            .not_valid_after(self.clock.now + left)
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
        )
        if not ca:
            uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        return builder.sign(self.key, hashes.SHA256())
