"""The parts of the vault, built bottom-up: each is given the parts it needs, which exist before it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.statements.signer import StatementSigner
from hsmd.daemon.front.vault.acquisition_records import AcquisitionRecords
from hsmd.daemon.front.vault.acquisitions import Acquisitions
from hsmd.daemon.front.vault.alterations import Alterations
from hsmd.daemon.front.vault.anchors import Anchors
from hsmd.daemon.front.vault.challenger import Challenger
from hsmd.daemon.front.vault.challenges import Challenges
from hsmd.daemon.front.vault.check_records import CheckRecords
from hsmd.daemon.front.vault.checks import Checks
from hsmd.daemon.front.vault.deposits import Deposits
from hsmd.daemon.front.vault.holds import Holds
from hsmd.daemon.front.vault.management_keys import ManagementKeys
from hsmd.daemon.front.vault.numbers import Numbers
from hsmd.daemon.front.vault.proofs import Proofs
from hsmd.daemon.front.vault.terms import Terms
from hsmd.daemon.front.vault.trust import Trust
from hsmd.transparency.checkpoint import origin_of


class Vault:
    """What the handlers of control requests work on. `appended` is called when there are new events."""

    def __init__(
        self,
        *,
        cache: SnapshotCache,
        audit: AuditLog,
        signer: StatementSigner,
        appended: Callable[[], None],
    ) -> None:
        challenges, trust, alterations = Challenges(), Trust(Anchors(signer)), Alterations(audit)
        self.proofs = Proofs(
            daemon=signer.daemon, challenges=challenges, cache=cache, trust=trust, audit=audit
        )
        self.challenger = Challenger(daemon=signer.daemon, challenges=challenges, proofs=self.proofs)
        self.keys = ManagementKeys(cache=cache, proofs=self.proofs, signer=signer, audit=audit)
        self.deposits = Deposits(
            cache=cache, proofs=self.proofs, trust=trust, alterations=alterations, audit=audit
        )
        self.acquisition_records = AcquisitionRecords(origin_of(signer.daemon), audit, cache)
        self.acquisitions = Acquisitions(
            cache=cache,
            proofs=self.proofs,
            trust=trust,
            records=self.acquisition_records,
            alterations=alterations,
        )
        self.check_records = CheckRecords(audit, cache)
        self.checks = Checks(
            cache=cache, trust=trust, signer=signer, records=self.check_records, alterations=alterations
        )
        self.terms = Terms(cache, appended)
        self.holds = Holds(cache, appended)
        self.numbers = Numbers(cache, self.acquisition_records, self.check_records)

    def tasks(self) -> list[Coroutine[Any, Any, None]]:
        """What runs as long as the daemon does."""
        return [
            self.acquisition_records.follow(),
            self.check_records.follow(),
            self.terms.follow(),
            self.holds.follow(),
            self.numbers.follow(),
        ]

    async def close(self) -> None:
        """Hand what is recorded or summed up to the store; to be called when nothing is requested any more."""
        await self.acquisition_records.close()
        await self.check_records.flush()
