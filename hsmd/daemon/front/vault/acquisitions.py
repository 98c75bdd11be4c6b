"""Acquisitions: an envelope is given out once the store has counted it and the log has the record of that."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from hsmd import observe
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.vault.acquisition_records import AcquisitionRecords
from hsmd.daemon.front.vault.alterations import Alterations
from hsmd.daemon.front.vault.proofs import Proofs
from hsmd.daemon.front.vault.trust import Trust
from hsmd.daemon.store import Given, NotGiven, Transaction
from hsmd.envelopes.vault.life_cycle import Reason
from hsmd.errors import BadRequest, Conflict, HsmdError, NotFound, StoreFailure
from hsmd.protocol.messages.vault_records import VaultGet

log = observe.logger()


class Acquired(NamedTuple):
    """What was given out, and how many uses are left (-1: no limit)."""

    given: Given
    uses_left: int


_NEXT_STEPS = {
    Reason.NONE: "`hsmd vault show` tells more",
    Reason.NOT_YET: "`hsmd vault limits --not-before` sets another begin",
    Reason.EXPIRED: "`hsmd vault limits --not-after` sets a later end",
    Reason.LIMIT: "`hsmd vault limits --max-uses` allows more",
    Reason.SUPERSEDED: "ask for the newest version",
    Reason.OWNER: "deposit a new version with `hsmd vault put`",
    Reason.SUSPENDED: "`hsmd vault resume` gives it out again",
    Reason.RESTORED: "`hsmd vault limits --confirm` does that",
    Reason.LOST_MANAGEMENT_KEY: "`hsmd vault put` does that",
}
"""What the owner can do."""


class Acquisitions:
    """Gives envelopes out. What was counted is not repeated: a kill costs a use, and gives none away."""

    def __init__(
        self,
        *,
        cache: SnapshotCache,
        proofs: Proofs,
        trust: Trust,
        records: AcquisitionRecords,
        alterations: Alterations,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cache = cache
        self._proofs = proofs
        self._trust = trust
        self._records = records
        self._alterations = alterations
        self._now = now

    async def get(self, identity: Identity, request: VaultGet) -> Acquired:
        """The envelope of a version. Raises Refused, NotFound, Conflict (not given out now, and why), Altered or StoreFailure."""
        await self._proofs.check(identity, request, request.proof, request.record, request.version)
        counted = await self._counted(identity.client, request)
        if isinstance(counted, NotGiven):
            version = counted.version
            raise Conflict(
                f"version {version.version} of {version.record} is not given out: {counted.standing.why}; "
                f"{_NEXT_STEPS[counted.standing.reason]}"
            )
        return Acquired(counted, counted.version.judge(self._now()).uses_left)

    async def _counted(self, owner: str, request: VaultGet) -> Given | NotGiven:
        """Count a request, and write the record of it."""
        ticket, now = self._records.begin(), self._now()
        in_log = self._records.in_log()

        def count(tx: Transaction) -> Given | NotGiven:
            version = tx.vault_versions.get(owner, request.record, request.version)
            self._trust.head(tx, owner, version)
            tx.vault_acquisitions.remove(in_log)
            return tx.vault_acquisitions.count(
                owner, version.record, version.version, ticket, self._records.origin, now
            )

        try:
            with self._alterations.noted(owner, request.record):
                counted = await self._cache.change_unversioned(count)
        except (NotFound, BadRequest, Conflict):
            self._records.failed(ticket, in_doubt=False)
            raise
        except HsmdError as error:
            self._records.failed(ticket, in_doubt=True)
            if isinstance(error, StoreFailure) and error.retryable:
                raise StoreFailure(f"{error.text}; the use may be counted", detail=error.detail) from None
            raise
        except BaseException:
            self._records.failed(ticket, in_doubt=True)
            raise
        self._records.removed(in_log)
        self._records.record(ticket, counted.acquisition)
        return counted
