"""Handlers of control requests about records of the vault."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.control.dispatcher import Handler
from hsmd.daemon.front.vault.acquisitions import Acquisitions
from hsmd.daemon.front.vault.deposits import Deposits
from hsmd.daemon.front.vault.terms import Terms
from hsmd.daemon.store import Page, StatementRecord, Transaction, VersionRecord
from hsmd.envelopes.vault.public_keys import type_name
from hsmd.errors import EnvelopeInvalid
from hsmd.protocol import messages
from hsmd.protocol.messages import Request
from hsmd.system.pages import fitting


class VaultRecordHandlers:
    """Stores, gives out, lists and ends versions of records."""

    def __init__(
        self,
        *,
        cache: SnapshotCache,
        deposits: Deposits,
        acquisitions: Acquisitions,
        terms: Terms,
        changed: Callable[[], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`changed` is called when something was changed, which may have appended an event."""
        self._cache = cache
        self._deposits = deposits
        self._acquisitions = acquisitions
        self._terms = terms
        self._changed = changed
        self._now = now

    def handlers(self) -> dict[type[Request], Handler]:
        """The method that carries out each request."""
        return {
            messages.VaultPut: self.put,
            messages.VaultGet: self.get,
            messages.VaultList: self.list,
            messages.VaultShow: self.show,
            messages.VaultStatements: self.statements,
            messages.VaultLimits: self.limit,
            messages.VaultSuspend: self.suspend,
            messages.VaultResume: self.resume,
            messages.VaultRevoke: self.revoke,
            messages.VaultDestroy: self.destroy,
        }

    async def put(
        self, identity: Identity, request: messages.VaultPut, deadline: float
    ) -> messages.VaultDeposited:
        version = await self._deposits.put(identity, request)
        self._note_change()
        return messages.VaultDeposited(version.record, version.version)

    async def get(
        self, identity: Identity, request: messages.VaultGet, deadline: float
    ) -> messages.VaultAcquired:
        try:
            given, uses_left = await self._acquisitions.get(identity, request)
        finally:
            self._changed()
        version = given.version
        return messages.VaultAcquired(
            record=version.record,
            version=version.version,
            envelope=given.envelope,
            text=given.head.text,
            signature=given.head.signature,
            requests=version.requests,
            released=version.released,
            uses_left=uses_left,
            public=version.spki,
        )

    async def list(
        self, identity: Identity, request: messages.VaultList, deadline: float
    ) -> messages.VaultPage:
        page = await self._cache.read(
            lambda tx: tx.vault_versions.page(identity.client, request.after, request.limit)
        )
        records = [self._info(summary.newest) for summary in page.items]
        return messages.VaultPage(*fitting(records, page.more))

    async def show(
        self, identity: Identity, request: messages.VaultShow, deadline: float
    ) -> messages.VaultVersions:
        page = await self._cache.read(
            lambda tx: tx.vault_versions.versions(
                identity.client, request.record, request.before, request.limit
            )
        )
        versions = [self._with_type(version) for version in page.items]
        return messages.VaultVersions(*fitting(versions, page.more))

    async def statements(
        self, identity: Identity, request: messages.VaultStatements, deadline: float
    ) -> messages.VaultStatementPage:
        def read(tx: Transaction) -> Page[StatementRecord]:
            version = tx.vault_versions.get(identity.client, request.record, request.version)
            return tx.vault_statements.page(version.row, request.after, request.limit)

        page = await self._cache.read(read)
        statements = [messages.SignedRecord(each.number, each.text, each.signature) for each in page.items]
        return messages.VaultStatementPage(*fitting(statements, page.more))

    async def limit(
        self, identity: Identity, request: messages.VaultLimits, deadline: float
    ) -> messages.Done:
        await self._deposits.limit(identity, request)
        return self._note_change()

    async def suspend(
        self, identity: Identity, request: messages.VaultSuspend, deadline: float
    ) -> messages.Done:
        await self._deposits.suspend(identity, request)
        return self._note_change()

    async def resume(
        self, identity: Identity, request: messages.VaultResume, deadline: float
    ) -> messages.Done:
        await self._deposits.resume(identity, request)
        return self._note_change()

    async def revoke(
        self, identity: Identity, request: messages.VaultRevoke, deadline: float
    ) -> messages.Done:
        await self._deposits.revoke(identity, request)
        return self._note_change()

    async def destroy(
        self, identity: Identity, request: messages.VaultDestroy, deadline: float
    ) -> messages.Done:
        await self._deposits.destroy(identity, request)
        return self._note_change()

    def _note_change(self) -> messages.Done:
        self._terms.changed()
        self._changed()
        return messages.Done()

    def _with_type(self, version: VersionRecord) -> messages.VaultVersion:
        """With the type of a private key, so that its owner knows what can be done with it before a use is counted."""
        info = self._info(version)
        if version.spki:
            with suppress(EnvelopeInvalid):  # a row that was altered; `vault.get` says so
                info.key_type = type_name(version.spki)
        return info

    def _info(self, version: VersionRecord) -> messages.VaultVersion:
        standing = version.judge(self._now())
        return messages.VaultVersion(
            record=version.record,
            version=version.version,
            kind=version.kind,
            key=version.key.hex(),
            state=standing.state.value,
            reason=standing.reason.value,
            created_at=version.created_at,
            number=version.number,
            suite=version.suite,
            management=version.management.hex(),
            newest=not version.superseded,
            mode=version.mode.value,
            not_before=version.not_before,
            not_after=version.not_after,
            max_uses=version.max_uses,
            requests=version.requests,
            released=version.released,
            uses_left=standing.uses_left,
            acquirable=standing.acquirable,
        )
