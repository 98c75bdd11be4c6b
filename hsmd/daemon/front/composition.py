"""The parts of the front process, built from the configuration: each is given the parts it needs, which exist before it."""

from __future__ import annotations

import contextlib
import socket
import time
from datetime import UTC, datetime
from functools import partial

from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.config.settings import Config, LimitsConfig
from hsmd.daemon.front.access.certificate_ends import CertificateEnds
from hsmd.daemon.front.access.identification import Identities
from hsmd.daemon.front.access.snapshot import Snapshot
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.authorities.issuing import Issuing
from hsmd.daemon.front.authorities.list_keeper import ListKeeper
from hsmd.daemon.front.authorities.making import AuthorityMaker
from hsmd.daemon.front.authorities.nodes import NodeIssuing
from hsmd.daemon.front.checkpoints.checkpointer import Checkpointer
from hsmd.daemon.front.checkpoints.continuity import Continuity
from hsmd.daemon.front.checkpoints.log_guard import LogGuard
from hsmd.daemon.front.control.audit import AuditHandlers
from hsmd.daemon.front.control.authorities import AuthorityHandlers
from hsmd.daemon.front.control.certificates import CertificateHandlers
from hsmd.daemon.front.control.clients import ClientHandlers
from hsmd.daemon.front.control.dispatcher import Dispatcher
from hsmd.daemon.front.control.enrolment import EnrolmentHandlers
from hsmd.daemon.front.control.events import EventHandlers
from hsmd.daemon.front.control.grants import GrantHandlers
from hsmd.daemon.front.control.key_replacement import KeyReplacementHandlers
from hsmd.daemon.front.control.keys import KeyHandlers
from hsmd.daemon.front.control.nodes import NodeHandlers
from hsmd.daemon.front.control.served_certificates import ServedCertificateHandlers
from hsmd.daemon.front.control.statements import StatementHandlers
from hsmd.daemon.front.control.status import StatusHandlers
from hsmd.daemon.front.control.tokens import TokenHandlers
from hsmd.daemon.front.control.vault_checks import VaultCheckHandlers
from hsmd.daemon.front.control.vault_keys import VaultKeyHandlers
from hsmd.daemon.front.control.vault_records import VaultRecordHandlers
from hsmd.daemon.front.control.vault_rekey import VaultRekeyHandlers
from hsmd.daemon.front.launcher_link import LauncherLink
from hsmd.daemon.front.ledger.conditions import Conditions
from hsmd.daemon.front.ledger.endings import Endings
from hsmd.daemon.front.ledger.event_reader import EventReader
from hsmd.daemon.front.ledger.followers import Followers
from hsmd.daemon.front.ledger.housekeeping import Housekeeping
from hsmd.daemon.front.ledger.observed import conditions
from hsmd.daemon.front.signing.counters import Counters
from hsmd.daemon.front.signing.hold import KeyHold
from hsmd.daemon.front.signing.rate_limits import RateLimit, RateLimits
from hsmd.daemon.front.signing.service import KeyService
from hsmd.daemon.front.ssh.admission import Admission
from hsmd.daemon.front.ssh.bound_addresses import BoundAddresses
from hsmd.daemon.front.ssh.listener import SshListener
from hsmd.daemon.front.ssh.sessions import Sessions
from hsmd.daemon.front.ssh.tariff import TARIFF
from hsmd.daemon.front.statements.signer import StatementSigner
from hsmd.daemon.front.tokens.login_guard import LoginGuard
from hsmd.daemon.front.tokens.pools import TokenPools
from hsmd.daemon.front.tokens.reconciliation import Reconciler
from hsmd.daemon.front.vault.parts import Vault
from hsmd.daemon.ipc.launcher_messages import ReplaceWorker
from hsmd.daemon.store import Difference, LoginStop, Store
from hsmd.errors import AuditFailure
from hsmd.metrics import MetricsEndpoint
from hsmd.metrics.daemon_families import families
from hsmd.system.client_threads import ClientThreads
from hsmd.system.intake import Intakes
from hsmd.transparency.checkpoint import origin_of


class Parts:
    """What the life cycle of the front works on. Nothing is running yet."""

    def __init__(self, config: Config, launcher: LauncherLink) -> None:
        self._build_state(config)
        self._build_signing(config, launcher)
        self._build_checkpoints(config)
        self._build_ledger(config)
        self._build_vault()
        self._build_authorities(config)
        self._build_control(config)
        self._build_network()
        self.apply_tokens(config)

    def _build_state(self, config: Config) -> None:
        """Store and audit log."""
        self.store = Store(config.store_url)
        self.store.migrate()
        self.cache = SnapshotCache(self.store)
        self.certificate_ends = CertificateEnds(self.cache, config.certificates.warn_days)
        self.audit = AuditLog.open(
            config.audit.directory, sync=config.audit.sync, segment_bytes=config.audit.segment_mib << 20
        )
        self.tree = self.audit.tree()

    def _build_signing(self, config: Config, launcher: LauncherLink) -> None:
        """Tokens, and the service that uses their keys."""
        self.tokens = TokenPools(
            max_queue=config.limits.queue, request_replacement=lambda pid: launcher.send(ReplaceWorker(pid))
        )
        self.logins = LoginGuard(
            self.store,
            holder=holder(config),
            by=f"{config.name} on {socket.gethostname()}",
            tell=launcher.send,
            hold=self.tokens.hold,
            wait=self.tokens.wait,
            starting=self.tokens.starting,
            record=partial(_record_stop, self.audit),
            try_login=self.tokens.try_login,
        )
        self.counters = Counters(config.metrics.series)
        self.counters.begin_window(time.monotonic())
        self.rate_limits = RateLimits(rate_limit(config.limits))
        self.hold = KeyHold()
        self.service = KeyService(
            cache=self.cache,
            audit=self.audit,
            origin=origin_of(config.name),
            pools=self.tokens.pools,
            clock=time.monotonic,
            counters=self.counters,
            limits=self.rate_limits,
            hold=self.hold,
        )
        self.tokens.report_to(self.service.completed, self.service.crashed, self.logins)
        self.cache.on_change(self.tokens.store_changed)
        self.reconciler = Reconciler(pools=self.tokens.pools, snapshot=self._snapshot)

    def _build_checkpoints(self, config: Config) -> None:
        """Signatures over the audit log and over statements, and the keys that make them."""
        self.keys = KeyHandlers(
            cache=self.cache,
            pools=self.tokens.pools,
            clock=time.monotonic,
            certificate_state=self.certificate_ends.state,
        )
        origin = origin_of(config.name)
        continuity = Continuity(
            origin,
            audit=self.audit,
            cache=self.cache,
            hold=self.hold,
            remembered=self.store.query(lambda tx: tx.audit_logs.head(origin)),
            discontinuities=self.store.query(lambda tx: tx.audit_logs.discontinuities(origin)),
        )
        self.checkpointer = Checkpointer(
            origin=origin,
            audit=self.audit,
            tree=self.tree,
            service=self.service,
            snapshot=self._snapshot,
            continuity=continuity,
            make_key=self.keys.generate_checkpoint_key,
        )
        self.statements = StatementSigner(
            daemon=config.name,
            audit=self.audit,
            service=self.service,
            cache=self.cache,
            make_key=self.keys.generate_statement_key,
        )
        self.log_guard = LogGuard(
            config.audit,
            audit=self.audit,
            checkpointer=self.checkpointer,
            continuity=continuity,
            hold=self.hold,
        )

    def _build_ledger(self, config: Config) -> None:
        """Events: what pushes them, what appends those that no request causes, and what removes old ones."""
        self.followers = Followers(
            EventReader(self.cache), knows=lambda identity: self._identities().knows(identity)
        )
        self.housekeeping = Housekeeping(self.store, holder(config))
        self.endings = Endings(self.cache, self.followers.wake)
        self.cache.on_change(lambda _: self.followers.wake())

    def _build_vault(self) -> None:
        """Keys that clients deposit, and what owners and checkers may do with them."""
        self.vault = Vault(
            cache=self.cache, audit=self.audit, signer=self.statements, appended=self.followers.wake
        )

    def _vault_handlers(
        self,
    ) -> tuple[VaultKeyHandlers, VaultRekeyHandlers, VaultRecordHandlers, VaultCheckHandlers]:
        vault, cache = self.vault, self.cache
        return (
            VaultKeyHandlers(challenger=vault.challenger, keys=vault.keys, changed=self.followers.wake),
            VaultRekeyHandlers(keys=vault.keys, deposits=vault.deposits, changed=self.followers.wake),
            VaultRecordHandlers(
                cache=cache,
                deposits=vault.deposits,
                acquisitions=vault.acquisitions,
                terms=vault.terms,
                changed=self.followers.wake,
            ),
            VaultCheckHandlers(
                cache=cache,
                proofs=vault.proofs,
                checks=vault.checks,
                overloaded=vault.numbers.note_overload,
            ),
        )

    def _build_authorities(self, config: Config) -> None:
        """What certificate authorities issue, and what keeps their revocation lists."""
        self.issuing = Issuing(cache=self.cache, service=self.service)
        self.list_keeper = ListKeeper(
            cache=self.cache,
            audit=self.audit,
            issuing=self.issuing,
            holder=holder(config),
            can_sign=self.tokens.is_ready,
        )

    def _build_control(self, config: Config) -> None:
        """Everything that answers control requests, and what it reports on."""
        self.admission = Admission(config.limits)
        self.intakes = Intakes(TARIFF, time.monotonic, threads=ClientThreads())
        self.sessions = Sessions(self.service, config.limits, following=self.followers)
        self.bound = BoundAddresses()
        self.clients = ClientHandlers(
            cache=self.cache,
            key_rotation=config.listen.client_key_rotation,
            activity=self.admission.activity,
        )
        statements = StatementHandlers(cache=self.cache, signer=self.statements)
        self.enrolments = EnrolmentHandlers(
            cache=self.cache,
            audit=self.audit,
            pins=self.bound.for_roles,
            statement_keys=statements.to_pin,
        )
        self.status = StatusHandlers(
            name=config.name,
            started_at=datetime.now(UTC),
            cache=self.cache,
            service=self.service,
            pools=self.tokens.pools,
            audit=self.audit,
            checkpointer=self.checkpointer,
            log_guard=self.log_guard,
            hold=self.hold,
            admission=self.admission,
            sessions=self.sessions,
            certificate_ends=self.certificate_ends,
            vault=self.vault.numbers.read,
            list_ends=self.list_keeper.first,
        )
        self.conditions = Conditions(
            self.store, lambda: conditions(config.name, self.status.state()), self.followers.wake
        )
        tokens = TokenHandlers(
            cache=self.cache,
            logins=self.logins,
            pools=self.tokens.pools,
            differences=self.reconciler.found,
        )
        audit = AuditHandlers(
            audit=self.audit, checkpointer=self.checkpointer, log_guard=self.log_guard, cache=self.cache
        )
        certificates = CertificateHandlers(
            cache=self.cache, service=self.service, certificate_state=self.certificate_ends.state
        )
        authorities = AuthorityHandlers(
            cache=self.cache,
            maker=AuthorityMaker(cache=self.cache, keys=self.keys, service=self.service),
            issuing=self.issuing,
        )
        nodes = NodeHandlers(cache=self.cache, nodes=NodeIssuing(cache=self.cache, issuing=self.issuing))
        served = ServedCertificateHandlers(cache=self.cache)
        grants = GrantHandlers(cache=self.cache)
        events = EventHandlers(EventReader(self.cache))
        groups = (
            tokens,
            self.keys,
            KeyReplacementHandlers(cache=self.cache, keys=self.keys),
            certificates,
            authorities,
            nodes,
            served,
            self.clients,
            grants,
            self.enrolments,
            self.status,
            audit,
            events,
            statements,
            *self._vault_handlers(),
        )
        handlers = {request: handler for group in groups for request, handler in group.handlers().items()}
        self.dispatcher = Dispatcher(
            snapshot=self._snapshot,
            audit=self.audit,
            handlers=handlers,
            settlers={**self.clients.settlers(), **served.settlers()},
        )

    def _build_network(self) -> None:
        """What listens on the network, and what it closes when grants change."""
        self.metrics = MetricsEndpoint(
            lambda: families(self.status.numbers(time.monotonic())), self.status.level_and_findings
        )
        self.listener = SshListener(
            identities=self._identities,
            admission=self.admission,
            make_session=partial(self.sessions.open, self.dispatcher.dispatch),
            intakes=self.intakes,
            enrolments=self.enrolments,
            bound=self.bound,
        )
        self.cache.on_change(self._recheck)
        self.cache.on_change(lambda _: self.logins.store_changed())

    def _recheck(self, difference: Difference) -> None:
        """Close connections whose client is another one now; it takes milliseconds with thousands of them."""
        if difference.changes_identities:
            self.listener.recheck()

    def apply_tokens(self, config: Config) -> None:
        """Serve the tokens of this configuration."""
        self.tokens.apply(config.tokens)
        self.logins.apply(token.name for token in config.tokens)

    def apply(self, config: Config) -> None:
        """Use what may change while the front runs, but for the addresses that it listens on."""
        self.admission.apply(config.limits)
        self.sessions.apply(config.limits)
        self.rate_limits.apply(rate_limit(config.limits))
        self.clients.apply(config.listen)
        self.certificate_ends.apply(config.certificates.warn_days)
        self.apply_tokens(config)

    def _snapshot(self) -> Snapshot:
        return self.cache.snapshot

    def _identities(self) -> Identities:
        return self.cache.snapshot.identities


def holder(config: Config) -> str:
    """What identifies this daemon in the store."""
    return f"{socket.gethostname()}:{config.path}"


def rate_limit(limits: LimitsConfig) -> RateLimit:
    """The rate limit of each client."""
    return RateLimit(rate=limits.client_rate, open_operations=limits.client_open)


def _record_stop(audit: AuditLog, stop: LoginStop) -> None:
    """Record a refused PIN. If the log cannot be written now, the store still has it."""
    with contextlib.suppress(AuditFailure):
        audit.event("token.logins-stopped", "", token=stop.token, reason=stop.reason)
        audit.commit()
