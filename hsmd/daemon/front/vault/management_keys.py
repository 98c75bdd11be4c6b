"""Management keys: registered by their owners, confirmed by operators, replaced by owners."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from datetime import UTC, datetime

from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.audit.refusals import RecordRate
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.statements.signer import StatementSigner
from hsmd.daemon.front.vault import prices
from hsmd.daemon.front.vault.checked import check_owner, check_time, stated_by_client
from hsmd.daemon.front.vault.proofs import Proofs
from hsmd.daemon.front.vault.trust import Altered
from hsmd.daemon.store import ManagementKeyRecord, StatedKey, Transaction, VersionRecord
from hsmd.daemon.store.records import Page
from hsmd.envelopes.vault import confirmations
from hsmd.envelopes.vault.confirmations import Confirmation
from hsmd.envelopes.vault.fields import format_time
from hsmd.envelopes.vault.management_keys import (
    ManagementKeyStatement,
    SignedManagementKey,
    WrappingSuite,
    fingerprint_of_text,
)
from hsmd.errors import BadRequest, NotFound, Overloaded
from hsmd.protocol.messages import Request
from hsmd.protocol.messages.vault_keys import VaultConfirm, VaultRegister
from hsmd.protocol.messages.vault_rekey import VaultRekeyBegin, VaultRekeyFinish, VaultRekeyList
from hsmd.protocol.messages.vault_types import VaultProof
from hsmd.system.pages import MAX_PAGE_BYTES

REGISTERED_EVENT = "vault.registered"
CONFIRMED_EVENT = "vault.confirmed"
REPLACED_EVENT = "vault.replaced"
RETIRED_EVENT = "vault.retired"
READ_EVENT = "vault.rekey-read"
REGISTRATIONS, REGISTRATION_RETRY_S = 10, 60.0
"""A client may register this many keys at once, and then one in this time: it needs no management key for it, each is an event,
and the ledger keeps a limited number of events of all clients."""
MOST_READ_BYTES = MAX_PAGE_BYTES // 4 * 3
"""Of envelopes and statements for one answer, which has them in base64."""
FURTHER_BYTES = 150
"""What an item of an answer has beyond that, at most: names of members, and that of the record."""


class ManagementKeys:
    """Changes management keys; what is registered is verified first."""

    def __init__(
        self,
        *,
        cache: SnapshotCache,
        proofs: Proofs,
        signer: StatementSigner,
        audit: AuditLog,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache = cache
        self._proofs = proofs
        self._signer = signer
        self._audit = audit
        self._now = now
        self._clock = clock
        self._registrations = RecordRate(REGISTRATIONS, 1 / REGISTRATION_RETRY_S)

    async def register(self, identity: Identity, request: VaultRegister) -> ManagementKeyRecord:
        """Register a key that an operator has to confirm. Raises BadRequest, Conflict, Overloaded or Refused."""
        prices.charge(prices.STATEMENT)
        with stated_by_client():
            statement = SignedManagementKey(request.text, request.signature).verify_own()
        stated = StatedKey(statement, request.text, request.signature)
        self._check(identity, request, request.wrapping_proof, statement)
        if not self._registrations.take(identity.client, self._clock()):
            raise Overloaded.retry_in(REGISTRATION_RETRY_S)
        return await self._registered(identity, stated)

    async def _registered(self, identity: Identity, stated: StatedKey) -> ManagementKeyRecord:
        now = self._now()
        key = await self._cache.change_unversioned(
            lambda tx: tx.vault_keys.register(identity.client, stated, now)
        )
        self._note(REGISTERED_EVENT, identity.client, key)
        return key

    async def confirm(self, identity: Identity, request: VaultConfirm, deadline: float) -> bool:
        """Confirm the pending key of an owner, or the active one that is held after a restore.

        False if it was confirmed before. Raises BadRequest or NotFound.
        """
        owner = request.owner
        key = await self._waiting(owner, request.fingerprint)
        if key is None:
            return False
        now = self._now()
        said = Confirmation(owner, key.digest.hex(), key.number, identity.client, format_time(now))
        note = await self._signer.sign_statement(confirmations.KIND, said.lines(), deadline)
        confirmed = await self._cache.change_unversioned(
            lambda tx: tx.vault_keys.confirm(owner, key.digest, note, now)
        )
        self._note(CONFIRMED_EVENT, identity.client, confirmed)
        return True

    async def _waiting(self, owner: str, fingerprint: str) -> ManagementKeyRecord | None:
        """The key that waits for a confirmation; None if the active one has this fingerprint. Raises Altered, too."""
        pending, active = await self._cache.read(
            lambda tx: (tx.vault_keys.pending(owner), tx.vault_keys.active(owner))
        )
        held = active if active is not None and active.held else None
        waiting = [key for key in (pending, held) if key is not None]
        if not waiting:
            if active is not None and _has(active, fingerprint):
                return None
            raise NotFound(f"no management key of {owner} waits for a confirmation")
        found = next((key for key in waiting if _has(key, fingerprint)), None)
        if found is None:
            raise BadRequest(
                f"the management key that {owner} has registered has another fingerprint; compare it with the "
                "owner's once more, and do not confirm it if they differ"
            )
        with stated_by_client():
            statement = SignedManagementKey(found.text, found.signature).verify_own()
        check_owner(statement.owner, owner)
        if (found.digest, found.number) != (statement.digest, statement.number):
            raise Altered(  # or the note would confirm whatever the row names, and not what the operator compared
                f"management key {found.number} of {owner}: its row is not about its statement; the store was changed"
            )
        return found

    async def page(self, owner: str, before: int, limit: int) -> Page[ManagementKeyRecord]:
        """The keys of an owner, the newest first, of those before number `before` (0: all).

        Raises NotFound if there is no client of that name.
        """

        def read(tx: Transaction) -> Page[ManagementKeyRecord]:
            tx.clients.find_id(owner)
            return tx.vault_keys.page(owner, before, limit)

        return await self._cache.read(read)

    # --- replacement ---

    async def begin(self, identity: Identity, request: VaultRekeyBegin) -> ManagementKeyRecord:
        """Make the key active that the active one vouches for. Raises BadRequest, Conflict or Refused."""
        active, _ = await self._proofs.check(identity, request, request.proof)
        prices.charge(2 * prices.STATEMENT)
        signed = SignedManagementKey(request.text, request.signature, request.succession)
        with stated_by_client():
            statement = signed.verify_succession(active.statement)
        stated = StatedKey(statement, request.text, request.signature, request.succession)
        self._check(identity, request, request.wrapping_proof, statement)
        now = self._now()
        key = await self._cache.change_unversioned(
            lambda tx: tx.vault_keys.replace(identity.client, stated, now)
        )
        self._note(REPLACED_EVENT, identity.client, key)
        return key

    async def finish(self, identity: Identity, request: VaultRekeyFinish) -> None:
        """Retire the key that was replaced. Raises Conflict while a deposit is under it, or Refused."""
        await self._proofs.check(identity, request, request.proof)
        now = self._now()
        key = await self._cache.change_unversioned(lambda tx: tx.vault_keys.finish(identity.client, now))
        self._note(RETIRED_EVENT, identity.client, key)

    async def still_sealed(
        self, identity: Identity, request: VaultRekeyList
    ) -> Page[tuple[VersionRecord, bytes, bytes, bytes]]:
        """Versions under the key that is replaced, each with envelope, newest statement and its signature.

        Raises Refused; an empty page if nothing is being replaced.
        """
        await self._proofs.check(identity, request, request.proof)
        owner = identity.client

        def read(tx: Transaction) -> Page[tuple[VersionRecord, bytes, bytes, bytes]]:
            replaced = tx.vault_keys.replaced(owner)
            if replaced is None:
                return Page((), False)
            return _sealed_page(
                tx, tx.vault_versions.sealed_to(owner, replaced.digest, request.after, request.limit)
            )

        page = await self._cache.read(read)
        if page.items:
            first, last = (_named(each[0]) for each in (page.items[0], page.items[-1]))
            self._audit.event(READ_EVENT, owner, owner=owner, count=len(page.items), first=first, last=last)
        return page

    # --- both ---

    def _check(
        self,
        identity: Identity,
        request: Request,
        wrapping_proof: VaultProof | None,
        statement: ManagementKeyStatement,
    ) -> None:
        """Whose the key is, when it was stated, and whether its wrapping key can open. Raises BadRequest or Refused."""
        check_owner(statement.owner, identity.client)
        check_time(statement.stated_at, self._now())
        if statement.suite is not WrappingSuite.SYMMETRIC:
            self._proofs.check_wrapping(identity, request, wrapping_proof, statement)

    def _note(self, event: str, client: str, key: ManagementKeyRecord) -> None:
        self._audit.event(event, client, owner=key.owner, number=key.number, management_key=key.digest.hex())


def _sealed_page(
    tx: Transaction, versions: Page[VersionRecord]
) -> Page[tuple[VersionRecord, bytes, bytes, bytes]]:
    """As many of these versions as fit into an answer, one at least: envelopes that would not leave are not read."""
    items: list[tuple[VersionRecord, bytes, bytes, bytes]] = []
    room = MOST_READ_BYTES
    for version in versions.items:
        item = _sealed(tx, version)
        room -= sum(map(len, item[1:])) + FURTHER_BYTES
        if room < 0 and items:
            return Page(tuple(items), True)
        items.append(item)
    return Page(tuple(items), versions.more)


def _sealed(tx: Transaction, version: VersionRecord) -> tuple[VersionRecord, bytes, bytes, bytes]:
    head = tx.vault_statements.head(version)
    return version, tx.vault_versions.envelope(version.row), head.text, head.signature


def _named(version: VersionRecord) -> str:
    return f"{version.record}/{version.version}"


def _has(key: ManagementKeyRecord, fingerprint: str) -> bool:
    return hmac.compare_digest(fingerprint_of(key).encode(), fingerprint.encode())


def fingerprint_of(key: ManagementKeyRecord) -> str:
    """What an operator compares. It is of the text in the row, whatever that is; a statement is decoded where it counts."""
    return fingerprint_of_text(key.text)
