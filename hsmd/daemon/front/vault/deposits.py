"""Deposits: new versions of records, and what their owners state about them later."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.audit.refusals import RecordRate
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.vault import prices
from hsmd.daemon.front.vault.alterations import Alterations
from hsmd.daemon.front.vault.challenges import Challenge
from hsmd.daemon.front.vault.checked import check_owner, check_time, stated_by_client
from hsmd.daemon.front.vault.proofs import Proofs
from hsmd.daemon.front.vault.trust import Trust, TrustedKey
from hsmd.daemon.store import Stated, Transaction, VersionRecord
from hsmd.envelopes.header import Kind
from hsmd.envelopes.vault.fields import format_time
from hsmd.envelopes.vault.proofs import Proof, ProofKind
from hsmd.envelopes.vault.public_keys import canonical_spki
from hsmd.envelopes.vault.records import (
    DESTROY,
    LIMITS,
    REVOKE,
    REWRAP,
    RecordStanding,
    RecordStatement,
    SignedStatement,
    check_envelope,
    follows,
)
from hsmd.errors import BadRequest, Conflict, Overloaded
from hsmd.protocol.messages import Request
from hsmd.protocol.messages.vault_records import (
    VaultDestroy,
    VaultLimits,
    VaultPut,
    VaultResume,
    VaultRevoke,
    VaultSuspend,
)
from hsmd.protocol.messages.vault_rekey import VaultRekeyWrap
from hsmd.protocol.messages.vault_types import VaultProof

DEPOSITED_EVENT = "vault.deposited"
STATED_EVENT = "vault.stated"
RESUMPTIONS, RESUMPTION_RETRY_S = 10_000, 10.0
"""As often a client may resume a version at once, and then once in this time: to suspend and to resume are events, and leave no
statement that counts for a quota."""

Write = Callable[[Transaction, Stated, datetime], VersionRecord]


class Deposits:
    """Stores what owners state, once everything about it is verified that can be without the owner's keys."""

    def __init__(
        self,
        *,
        cache: SnapshotCache,
        proofs: Proofs,
        trust: Trust,
        alterations: Alterations,
        audit: AuditLog,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache = cache
        self._proofs = proofs
        self._trust = trust
        self._alterations = alterations
        self._audit = audit
        self._now = now
        self._clock = clock
        self._resumptions = RecordRate(RESUMPTIONS, 1 / RESUMPTION_RETRY_S)

    async def put(self, identity: Identity, request: VaultPut) -> VersionRecord:
        """Deposit a version. Raises BadRequest, Conflict or Refused."""
        key, challenge, stated = await self._stated(identity, request, request.proof)
        statement = stated.statement
        now = self._now()
        _check_first(statement, now)
        with stated_by_client():
            check_envelope(statement, request.envelope, key.statement)
            self._check_public(identity, request, statement, challenge)
        version = await self._cache.change_unversioned(
            lambda tx: tx.vault_records.put(identity.client, stated, request.envelope, request.public, now)
        )
        self._note(DEPOSITED_EVENT, version, op=request.op())
        return version

    def _check_public(
        self, identity: Identity, request: VaultPut, statement: RecordStatement, challenge: Challenge
    ) -> None:
        """That the depositor has the private key of the public half that the statement names."""
        if statement.kind is Kind.SECRET_KEY:
            if request.public or request.possession or request.possession_kind:
                raise BadRequest("public: a symmetric key has no public half, and no proof of possession")
            return
        if canonical_spki(request.public).digest.hex() != statement.key:
            raise BadRequest("public: its SHA-256 is not the key of the statement")
        if request.possession_kind not in list(ProofKind):
            raise BadRequest(f"possession_kind: is none of {', '.join(ProofKind)}")
        self._proofs.check_possession(
            identity,
            Proof(ProofKind(request.possession_kind), request.possession),
            challenge,
            statement.record,
            statement.version,
            request.public,
            statement.key,
        )

    # --- later statements ---

    async def limit(self, identity: Identity, request: VaultLimits) -> VersionRecord:
        """Change term, uses or mode; this also ends what a restore holds. Raises BadRequest, Conflict or Refused."""
        _, _, stated = await self._stated(identity, request, request.proof)
        return await self._advance(
            identity,
            request,
            stated,
            LIMITS,
            lambda tx, stated, now: tx.vault_records.limit(identity.client, stated, now),
        )

    async def revoke(self, identity: Identity, request: VaultRevoke) -> VersionRecord:
        """Revoke a version, or declare it compromised. Raises BadRequest, Conflict or Refused."""
        _, _, stated = await self._stated(identity, request, request.proof)
        if stated.statement.standing not in (RecordStanding.REVOKED, RecordStanding.COMPROMISED):
            raise BadRequest("text: its standing is not revoked or compromised")
        return await self._advance(
            identity,
            request,
            stated,
            REVOKE,
            lambda tx, stated, now: tx.vault_records.revoke(identity.client, stated, now),
        )

    async def destroy(self, identity: Identity, request: VaultDestroy) -> VersionRecord:
        """Delete the envelope of a version. Raises BadRequest, Conflict or Refused."""
        _, _, stated = await self._stated(identity, request, request.proof)
        if stated.statement.standing is not RecordStanding.DESTROYED:
            raise BadRequest("text: its standing is not destroyed")
        return await self._advance(
            identity,
            request,
            stated,
            DESTROY,
            lambda tx, stated, now: tx.vault_records.destroy(identity.client, stated, now),
        )

    async def rewrap(self, identity: Identity, request: VaultRekeyWrap) -> VersionRecord:
        """Replace the envelope by one for the active management key. Raises BadRequest, Conflict or Refused."""
        key, _, stated = await self._stated(identity, request, request.proof)
        with stated_by_client():
            check_envelope(stated.statement, request.envelope, key.statement)
        return await self._advance(
            identity,
            request,
            stated,
            REWRAP,
            lambda tx, stated, now: tx.vault_records.rewrap(identity.client, stated, request.envelope, now),
        )

    # --- without a statement ---

    async def suspend(self, identity: Identity, request: VaultSuspend) -> VersionRecord:
        """Suspend a version. Raises Conflict or NotFound."""
        now = self._now()
        return await self._cache.change_unversioned(
            lambda tx: tx.vault_records.suspend(
                identity.client, request.record, request.version, request.reason, now
            )
        )

    async def resume(self, identity: Identity, request: VaultResume) -> VersionRecord:
        """Resume a version. Raises Conflict, NotFound, Overloaded or Refused."""
        await self._proofs.check(identity, request, request.proof, request.record, request.version)
        if not self._resumptions.take(identity.client, self._clock()):
            raise Overloaded.retry_in(RESUMPTION_RETRY_S)
        now = self._now()
        return await self._cache.change_unversioned(
            lambda tx: tx.vault_records.resume(identity.client, request.record, request.version, now)
        )

    # --- both ---

    async def _stated(
        self,
        identity: Identity,
        request: VaultPut | VaultLimits | VaultRevoke | VaultDestroy | VaultRekeyWrap,
        proof: VaultProof | None,
    ) -> tuple[TrustedKey, Challenge, Stated]:
        """The statement of a request that is proven, signed by the active management key."""
        with stated_by_client():
            named = RecordStatement.decode(request.text)
        key, challenge = await self._proofs.check(identity, request, proof, named.record, named.version)
        prices.charge(prices.STATEMENT)
        with stated_by_client():
            statement = SignedStatement(request.text, request.signature).verify(key.statement.signing_key)
        check_owner(statement.owner, identity.client)
        check_time(statement.stated_at, self._now())
        return key, challenge, Stated(statement, request.text, request.signature, key.digest)

    async def _advance(
        self, identity: Identity, request: Request, stated: Stated, changes: frozenset[str], write: Write
    ) -> VersionRecord:
        """Let a statement follow the newest one about its version, which is verified in the same transaction."""
        now, statement = self._now(), stated.statement

        def change(tx: Transaction) -> VersionRecord:
            version = tx.vault_versions.get(identity.client, statement.record, statement.version)
            _check_follows(version, self._trust.head(tx, identity.client, version), statement, changes)
            return write(tx, stated, now)

        with self._alterations.noted(identity.client, statement.record):
            version = await self._cache.change_unversioned(change)
        self._note(STATED_EVENT, version, op=request.op())
        return version

    def _note(self, event: str, version: VersionRecord, **more: str) -> None:
        self._audit.event(
            event,
            version.owner,
            owner=version.owner,
            record=version.record,
            version=version.version,
            number=version.number,
            statement=version.head.hex(),
            key=version.key.hex(),
            standing=version.standing.value,
            **more,
        )


def _check_first(statement: RecordStatement, now: datetime) -> None:
    if statement.number != 1:
        raise BadRequest("number: the statement of a deposit has the number 1")
    if statement.not_after and statement.not_after <= format_time(now):
        raise BadRequest(f"not_after: {statement.not_after} has passed already")


def _check_follows(
    version: VersionRecord, older: RecordStatement, newer: RecordStatement, changes: frozenset[str]
) -> None:
    """Raises BadRequest unless `newer` may follow.

    The owner has seen statements that a restore has lost, so after one any greater number will do.
    """
    lenient = version.held and newer.number > older.number
    if newer.previous != older.digest.hex():
        raise Conflict(
            f"the newest statement about version {older.version} of {older.record} is number {older.number} now; "
            "sign one that follows it"
        )
    with stated_by_client():
        follows(older, replace(newer, number=older.number + 1) if lenient else newer, changes)
