"""Handlers of control requests about the connection, the daemon's state and its counters."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sized
from datetime import datetime

import hsmd
from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.front.access.certificate_ends import CertificateEnds
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.checkpoints.checkpointer import Checkpointer
from hsmd.daemon.front.checkpoints.log_guard import LogGuard
from hsmd.daemon.front.control.dispatcher import Handler
from hsmd.daemon.front.signing.counters import BOUNDS_S
from hsmd.daemon.front.signing.hold import KeyHold
from hsmd.daemon.front.signing.service import KeyService
from hsmd.daemon.front.ssh.admission import Admission
from hsmd.daemon.front.tokens.pool import TokenPool
from hsmd.health.daemon import STORE_AWAY_S, judge
from hsmd.health.levels import level_of
from hsmd.protocol import messages
from hsmd.protocol.messages import Finding, Request
from hsmd.protocol.messages.base import AUDITOR, OPERATOR
from hsmd.protocol.roles import in_order

ENDS_IN_STATUS, ENDS_IN_METRICS = 10, 500
"""Certificates and revocation lists that are named, those that end first."""
JUDGED_FOR_S = 1.0
"""One judgement answers all that ask within this time: it costs a millisecond, and a thousand agents ask for it."""


class StatusHandlers:
    """Reports the caller's identity, the state of the daemon and its counters."""

    def __init__(
        self,
        *,
        name: str,
        started_at: datetime,
        cache: SnapshotCache,
        service: KeyService,
        pools: Mapping[str, TokenPool],
        audit: AuditLog,
        checkpointer: Checkpointer,
        log_guard: LogGuard,
        hold: KeyHold,
        admission: Admission,
        sessions: Sized,
        certificate_ends: CertificateEnds,
        vault: Callable[[], messages.VaultNumbers],
        list_ends: Callable[[int], list[messages.ListEnd]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._started_at = started_at
        self._cache = cache
        self._service = service
        self._pools = pools
        self._audit = audit
        self._checkpointer = checkpointer
        self._log_guard = log_guard
        self._hold = hold
        self._admission = admission
        self._sessions = sessions
        self._certificate_ends = certificate_ends
        self._vault = vault
        self._list_ends = list_ends
        self._clock = clock
        self._judged: messages.Health | None = None
        self._judged_at = 0.0

    def handlers(self) -> dict[type[Request], Handler]:
        """The method that carries out each request."""
        return {
            messages.WhoAmI: self.who_am_i,
            messages.Status: self.status,
            messages.MetricsRead: self.metrics,
            messages.HealthRead: self.health,
        }

    async def who_am_i(
        self, identity: Identity, request: messages.WhoAmI, deadline: float
    ) -> messages.Identity:
        names = [role.value for role in in_order(identity.roles)]
        return messages.Identity(
            client=identity.client,
            role=names[0],
            credential=identity.credential.text,
            daemon=self._name,
            roles=names,
        )

    async def status(
        self, identity: Identity, request: messages.Status, deadline: float
    ) -> messages.DaemonStatus:
        return self.state()

    async def metrics(
        self, identity: Identity, request: messages.MetricsRead, deadline: float
    ) -> messages.Metrics:
        return self.numbers(time.monotonic())

    async def health(
        self, identity: Identity, request: messages.HealthRead, deadline: float
    ) -> messages.Health:
        health = self.level_and_findings()
        return health if identity.roles & (OPERATOR | AUDITOR) else _without_text(health)

    def level_and_findings(self) -> messages.Health:
        """The daemon's health, with all that an operator may read; at most a second old."""
        now = self._clock()
        if self._judged is None or now - self._judged_at >= JUDGED_FOR_S:
            status = self.state()
            self._judged, self._judged_at = messages.Health(status.level, status.findings), now
        return self._judged

    def state(self) -> messages.DaemonStatus:
        """The present state of the daemon, with what follows from it for its health."""
        status = self._facts()
        status.findings = judge(status)
        status.level = level_of(status.findings)
        return status

    def _facts(self) -> messages.DaemonStatus:
        snapshot, newest = self._cache.snapshot, self._checkpointer.newest
        certificates = self._certificate_ends.counts()
        away_s = round(self._cache.age_s)
        return messages.DaemonStatus(
            version=hsmd.__version__,
            started_at=self._started_at,
            draining=self._service.draining,
            connections=self._admission.connections,
            tokens=[pool.status() for pool in self._pools.values()],
            keys=snapshot.key_count,
            clients=snapshot.client_count,
            grants=snapshot.grant_count,
            audit_records=self._audit.size,
            audit_head=self._audit.head,
            audit_writable=self._audit.writable,
            operations=self._service.counters.totals(),
            audit_covered=newest.checkpoint.size if newest else 0,
            audit_uncovered_s=round(self._checkpointer.age_s),
            audit_free_bytes=self._log_guard.free_bytes,
            audit_warning=self._log_guard.held or self._log_guard.warning,
            audit_fault="" if self._audit.writable else self._audit.fault or "syncing fails",
            held=self._hold.conditions,
            store_away_s=away_s if away_s > STORE_AWAY_S else 0,
            sessions=len(self._sessions),
            starting=self._admission.starting,
            certificates=certificates.stored,
            certificates_ended=certificates.ended,
            certificates_ending=certificates.ending,
            first_certificate_ends=self._ends(ENDS_IN_STATUS),
            first_list_ends=self._list_ends(ENDS_IN_STATUS),
        )

    def numbers(self, now: float) -> messages.Metrics:
        """State and counters at this monotonic time, for `hsmd top`, `hsmd status` and Prometheus."""
        counters = self._service.counters
        return messages.Metrics(
            status=self.state(),
            uses=[
                messages.UseCount(*series, count, recent, over_s)
                for series, count, recent, over_s in counters.recent(now)
            ],
            bounds_s=list(BOUNDS_S),
            latencies=[
                messages.Latency(purpose, key_type, list(histogram.counts), histogram.total_s)
                for (purpose, key_type), histogram in counters.latencies.items()
            ],
            certificate_ends=self._ends(ENDS_IN_METRICS),
            vault=self._vault(),
            list_ends=self._list_ends(ENDS_IN_METRICS),
        )

    def _ends(self, number: int) -> list[messages.CertificateEnd]:
        return [
            messages.CertificateEnd(each.key, each.not_after, each.state.value)
            for each in self._certificate_ends.first(number)
        ]


def _without_text(health: messages.Health) -> messages.Health:
    """What those may read of it who are neither operator nor auditor."""
    findings = [Finding(each.condition, each.severity, each.subject) for each in health.findings]
    return messages.Health(health.level, findings)
