"""Authorities whose keys are in software, with a real store: for tests of what the front does with them."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmd.algorithms import KeyType, SignatureScheme
from hsmd.daemon.front.access.identity import DAEMON
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.authorities import issuing as issuing_module
from hsmd.daemon.front.authorities.authority import Authority
from hsmd.daemon.front.authorities.issuing import Issuing
from hsmd.daemon.pki.authority import Issuer, Term, authority_certificate
from hsmd.daemon.store import AuthorityRecord, IssuedRecord, KeyRecord, Store
from hsmd.protocol.messages import CaIssue
from hsmd.purposes import Purpose
from tests.support.hostile_certificates import NAME, constraints

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
ENDS = NOW + timedelta(days=30)


class Site:
    """An authority `root`, whose certificate ends at `ENDS`, and what signs for it."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = Store(f"sqlite:///{directory}/store.db")
        self.store.migrate()
        self.now = NOW
        self.fails: Exception | None = None
        self.before_signing: Any = None
        self._keys: dict[bytes, ec.EllipticCurvePrivateKey] = {}
        self.add_authority("root")
        self.cache = SnapshotCache(self.store)
        self.issuing = Issuing(cache=self.cache, service=None, now=lambda: self.now)  # type: ignore[arg-type]
        monkeypatch.setattr(issuing_module, "sign", self._sign)

    def add_authority(
        self, name: str, lists_at: tuple[str, ...] = (), *, certified: bool = True, token: str = "main"
    ) -> None:
        """Add an authority, with its certificate unless it is not `certified`."""
        own = ec.generate_private_key(ec.SECP256R1())
        found, scheme = constraints(), SignatureScheme.ECDSA_SHA256
        spki = own.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        issuer = Issuer.of_key(NAME, spki, scheme)
        unsigned = authority_certificate(
            issuer, found, NAME, spki, Term(NOW - timedelta(days=1), ENDS), 1, path_length=1, next_key=found.next_key
        )  # fmt: skip
        chain = unsigned.signed_pem(own.sign(unsigned.to_be_signed, ec.ECDSA(SHA256())))
        purposes = frozenset({Purpose.X509_AUTHORITY})
        key = KeyRecord(name, KeyType.P256, hashlib.sha256(spki).digest(), spki, purposes, token, NOW)
        self._keys[key.digest] = own
        with self.store.write() as tx:
            tx.keys.add(key)
            tx.authorities.add(AuthorityRecord(name, found.to_json(), lists_at, 7 * 86_400))
            if certified:
                tx.certificates.set(name, chain, ENDS, NOW)

    async def _sign(
        self, service: Any, identity: Any, authority: Authority, data: bytes, deadline: float
    ) -> bytes:
        if self.before_signing is not None:
            await self.before_signing()
        if self.fails is not None:
            raise self.fails
        return self._keys[authority.key.digest].sign(data, ec.ECDSA(SHA256()))

    async def issue(self, **changes: Any) -> IssuedRecord:
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName("www.example.com")])
        builder = x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(names, True)
        pem = builder.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()
        record, _ = await self.issuing.issue(DAEMON, CaIssue("root", "server", request=pem, **changes), 0.0)
        return record

    async def authority(self) -> Authority:
        return await self.issuing.read("root")

    def rows(self) -> tuple[IssuedRecord, ...]:
        return self.store.query(lambda tx: tx.issued.page("root", 0, 99, revoked=False).items)
