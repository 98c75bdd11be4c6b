"""Handlers of control requests about the certificates that front ends serve, as they report them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.control.dispatcher import Handler, Settle
from hsmd.daemon.front.ledger.producers import digest_of_leaf
from hsmd.daemon.store import Page, Transaction
from hsmd.daemon.store.records import ServedRecord
from hsmd.errors import NotFound
from hsmd.protocol import messages
from hsmd.protocol.messages import Request
from hsmd.system.pages import fitting


class ServedCertificateHandlers:
    """Takes the reports of front ends, and tells operators which certificate each of them serves."""

    def __init__(
        self, *, cache: SnapshotCache, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._cache = cache
        self._now = now

    def handlers(self) -> dict[type[Request], Handler]:
        """The method that carries out each request."""
        return {messages.CertificateReport: self.report, messages.CertificateServed: self.served}

    def settlers(self) -> dict[type[Request], Settle]:
        """The method that decides before a request is recorded: agents repeat their reports."""
        return {messages.CertificateReport: self.settle_report}

    async def settle_report(
        self, identity: Identity, request: messages.CertificateReport
    ) -> messages.Done | None:
        """The answer to a report that says nothing new."""
        served = _served(request)
        differing = await self._cache.read(lambda tx: tx.served.differing(identity.client, served))
        return None if differing else messages.Done(changed=False)

    async def report(
        self, identity: Identity, request: messages.CertificateReport, deadline: float
    ) -> messages.Done:
        served, now = _served(request), self._now()
        changed = await self._cache.change_unversioned(
            lambda tx: tx.served.report(identity.client, served, now)
        )
        return messages.Done(changed)

    async def served(
        self, identity: Identity, request: messages.CertificateServed, deadline: float
    ) -> messages.ServedByPage:
        def read(tx: Transaction) -> tuple[str, Page[ServedRecord]]:
            return leaf_of(tx, request.key), tx.served.of_key(request.key, request.after, request.limit)

        current, page = await self._cache.read(read)
        return messages.ServedByPage(
            current, *fitting([served_by(each, current) for each in page.items], page.more)
        )


def leaf_of(tx: Transaction, key: str) -> str:
    """SHA-256 (hexadecimal) of the leaf that is stored for a key; empty if there is none. Raises NotFound without the key."""
    tx.keys.find_id(key)
    try:
        return digest_of_leaf(tx.certificates.get(key).chain_pem)
    except NotFound:
        return ""


def served_by(record: ServedRecord, current: str) -> messages.ServedBy:
    """What control results say of a front end; `current` is the SHA-256 of the stored leaf (hexadecimal)."""
    certificate = record.certificate.hex()
    state = "unreported" if not certificate else "current" if certificate == current else "other"
    return messages.ServedBy(record.client, state, certificate, record.since)


def _served(request: messages.CertificateReport) -> dict[str, bytes]:
    return {each.key: bytes.fromhex(each.certificate) for each in request.served}
