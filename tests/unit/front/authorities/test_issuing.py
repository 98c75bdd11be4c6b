"""Issuing with a real store and a key in software: what is left when a signature fails, terms, and lists that race."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from hsmd.daemon.front.access.identity import DAEMON
from hsmd.daemon.front.authorities.issuing import MAX_REVOKED
from hsmd.daemon.store import IssuedRecord
from hsmd.errors import Conflict, PurposeMismatch, Unavailable
from tests.support.polling import eventually
from tests.support.software_authority import ENDS, NOW, Site


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
    assert (stored.signature, number) == (second.signature, int(NOW.timestamp()) + 1)


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
