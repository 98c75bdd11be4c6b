"""Issuing with a real store and a key in software: what is left when a signature fails, terms, and lists that race."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
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
from hsmd.daemon.front.authorities.issuing import MAX_REVOKED, Issuing
from hsmd.daemon.pki.authority import Issuer, Term, authority_certificate
from hsmd.daemon.store import AuthorityRecord, IssuedRecord, KeyRecord, Store
from hsmd.errors import Conflict, HsmdError, PurposeMismatch, Unavailable
from hsmd.protocol.messages import CaIssue
from hsmd.purposes import Purpose
from tests.support.hostile_certificates import NAME, constraints
from tests.support.polling import eventually

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
ENDS = NOW + timedelta(days=30)


class Site:
    """An authority `root`, whose certificate ends at `ENDS`, and what signs for it."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = Store(f"sqlite:///{directory}/store.db")
        self.store.migrate()
        self.now = NOW
        self.fails: HsmdError | None = None
        self.before_signing: Any = None
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._add_authority()
        self.cache = SnapshotCache(self.store)
        self.issuing = Issuing(cache=self.cache, service=None, now=lambda: self.now)  # type: ignore[arg-type]
        monkeypatch.setattr(issuing_module, "sign", self._sign)

    def _add_authority(self) -> None:
        found, scheme = constraints(), SignatureScheme.ECDSA_SHA256
        spki = self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        issuer = Issuer.of_key(NAME, spki, scheme)
        unsigned = authority_certificate(
            issuer, found, NAME, spki, Term(NOW - timedelta(days=1), ENDS), 1, path_length=1, next_key=found.next_key
        )  # fmt: skip
        chain = unsigned.signed_pem(self._key.sign(unsigned.to_be_signed, ec.ECDSA(SHA256())))
        purposes = frozenset({Purpose.X509_AUTHORITY})
        key = KeyRecord("root", KeyType.P256, hashlib.sha256(spki).digest(), spki, purposes, "main", NOW)
        with self.store.write() as tx:
            tx.keys.add(key)
            tx.authorities.add(AuthorityRecord("root", found.to_json(), (), 7 * 86_400))
            tx.certificates.set("root", chain, ENDS, NOW)

    async def _sign(
        self, service: Any, identity: Any, authority: Authority, data: bytes, deadline: float
    ) -> bytes:
        if self.before_signing is not None:
            await self.before_signing()
        if self.fails is not None:
            raise self.fails
        return self._key.sign(data, ec.ECDSA(SHA256()))

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


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    made = Site(tmp_path, monkeypatch)
    await made.cache.refresh()
    yield made
    made.store.close()


async def test_a_serial_number_is_in_the_store_before_it_is_signed(site: Site) -> None:
    seen: list[tuple[IssuedRecord, ...]] = []

    async def look() -> None:
        seen.append(site.rows())

    site.before_signing = look
    record = await site.issue()
    ((before,),) = seen
    assert (before.serial, before.certificate) == (record.serial, b"")
    assert x509.load_der_x509_certificate(record.certificate).serial_number == int(record.serial, 16)


async def test_what_may_have_been_signed_can_be_revoked(site: Site) -> None:
    """The worker was lost, or its answer: the certificate may exist somewhere."""
    site.fails = Unavailable("the token is away")
    with pytest.raises(Unavailable):
        await site.issue()
    (row,) = site.rows()
    assert row.certificate == b""
    site.fails = None
    changed, pem = await site.issuing.revoke(DAEMON, await site.authority(), row.serial, "unspecified", 0.0)
    listed = x509.load_pem_x509_crl(pem.encode())
    assert changed and listed.get_revoked_certificate_by_serial_number(int(row.serial, 16)) is not None
    with pytest.raises(Conflict, match="was not signed"):
        await site.issuing.renew(DAEMON, await site.authority(), row.serial, 0, 0.0)


async def test_what_the_ceiling_refuses_was_not_signed(site: Site) -> None:
    site.fails = PurposeMismatch("not in the ceiling")
    with pytest.raises(PurposeMismatch):
        await site.issue()
    assert site.rows() == ()


async def test_no_certificate_ends_after_that_of_its_authority(site: Site) -> None:
    assert (await site.issue()).not_after == ENDS
    day = await site.issue(term_s=86_400)
    assert (day.not_before, day.not_after) == (NOW - timedelta(hours=1), NOW + timedelta(hours=23))
    hour = await site.issue(term_s=3_600)
    assert hour.not_after - hour.not_before == timedelta(hours=1)
    assert hour.not_after == NOW + timedelta(minutes=55)
    site.now = ENDS
    with pytest.raises(Conflict, match="hsmd ca renew root"):
        await site.issue()


async def test_a_renewed_certificate_has_the_same_term_and_key(site: Site) -> None:
    old = await site.issue(term_s=86_400)
    site.now = NOW + timedelta(hours=20)
    new, _ = await site.issuing.renew(DAEMON, await site.authority(), old.serial, 0, 0.0)
    assert new.not_after - new.not_before == timedelta(days=1)
    assert (new.key_digest, new.names, new.profile) == (old.key_digest, old.names, old.profile)
    assert new.serial != old.serial


async def test_a_list_that_was_overtaken_is_not_the_newest(site: Site) -> None:
    """Two daemons sign lists at the same time; the one with the lower number comes to the store last."""
    first_may_sign, authority = asyncio.Event(), await site.authority()

    async def wait_once() -> None:
        site.before_signing = None
        await first_may_sign.wait()

    site.before_signing = wait_once
    first = asyncio.create_task(site.issuing.sign_list(DAEMON, authority, 0.0))
    await eventually(lambda: site.before_signing is None)
    second = x509.load_pem_x509_crl((await site.issuing.sign_list(DAEMON, authority, 0.0)).encode())
    first_may_sign.set()
    await first
    stored = x509.load_der_x509_crl((await site.authority()).record.list_der)
    number = stored.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    assert (stored.signature, number) == (second.signature, 2)


async def test_ended_certificates_leave_the_list_after_one_more(site: Site) -> None:
    old = await site.issue(term_s=86_400)
    authority = await site.authority()
    await site.issuing.revoke(DAEMON, authority, old.serial, "superseded", 0.0)
    for at, listed in ((timedelta(days=6), 1), (timedelta(days=9), 0)):
        site.now = NOW + at
        pem = await site.issuing.sign_list(DAEMON, authority, 0.0)
        assert len(list(x509.load_pem_x509_crl(pem.encode()))) == listed


async def test_a_list_that_is_too_long_is_refused(site: Site) -> None:
    record = await site.issue()
    with site.store.write(versioned=False) as tx:
        for number in range(MAX_REVOKED + 1):
            other = IssuedRecord("root", f"{number:x}", "server", "", (), record.key_digest, NOW, ENDS)
            tx.issued.begin(other)
            tx.issued.revoke("root", other.serial, "superseded", NOW)
    with pytest.raises(Conflict, match=f"more than {MAX_REVOKED}"):
        await site.issuing.sign_list(DAEMON, await site.authority(), 0.0)
