"""The front process: identity, grants, audit, admission; no PIN, no PKCS#11 module.

This is the only place that knows the configuration and the concrete classes together.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop

from hsmd import observe
from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.config import reader as configuration
from hsmd.daemon.config.settings import Config
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot import Snapshot
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.checkpoints.checkpointer import Checkpointer
from hsmd.daemon.front.checkpoints.continuity import Continuity
from hsmd.daemon.front.checkpoints.log_guard import LogGuard
from hsmd.daemon.front.control.audit import AuditHandlers
from hsmd.daemon.front.control.certificates import CertificateHandlers
from hsmd.daemon.front.control.clients import ClientHandlers
from hsmd.daemon.front.control.dispatcher import Dispatcher
from hsmd.daemon.front.control.enrolment import EnrolmentHandlers
from hsmd.daemon.front.control.grants import GrantHandlers
from hsmd.daemon.front.control.keys import KeyHandlers
from hsmd.daemon.front.control.status import StatusHandlers
from hsmd.daemon.front.control.tokens import TokenHandlers
from hsmd.daemon.front.launcher_link import LauncherLink
from hsmd.daemon.front.metrics import MetricsEndpoint
from hsmd.daemon.front.signing.counters import Counters
from hsmd.daemon.front.signing.hold import KeyHold, Reason
from hsmd.daemon.front.signing.rate_limits import RateLimit, RateLimits
from hsmd.daemon.front.signing.service import KeyService
from hsmd.daemon.front.ssh.admission import Admission
from hsmd.daemon.front.ssh.listener import SshListener
from hsmd.daemon.front.ssh.session import Session, Transport
from hsmd.daemon.front.tokens.login_guard import LoginGuard
from hsmd.daemon.front.tokens.pools import TokenPools
from hsmd.daemon.front.tokens.reconciliation import Reconciler
from hsmd.daemon.ipc.launcher_messages import (
    AnyToFront,
    Drain,
    FrontReady,
    PermitStarts,
    Reload,
    Reloaded,
    ReplaceWorker,
    Starts,
    WorkerEnded,
    WorkerStarted,
)
from hsmd.daemon.store import LoginStop, Store
from hsmd.errors import AuditFailure, ConfigurationError, HsmdError, StoreFailure
from hsmd.protocol.roles import Role
from hsmd.system.process import harden, run_as_batch, tune_garbage_collection
from hsmd.transparency.checkpoint import origin_of

CHECK_S = 1.0
"""How often sessions are checked for peers that hold frames or answers, connections for certificates that have ended."""
ORPHANED_S = 1.0
"""Time for open requests when the launcher has died: its successor wants the addresses and the audit log."""
EXIT_FAULT = 70
"""EX_SOFTWARE of sysexits.h: something of ours broke; the launcher starts another front."""
EXIT_CANNOT_START = 78
"""EX_CONFIG of sysexits.h: starting again will not help until somebody mends the configuration."""

log = observe.logger()


class Front:
    """Everything the front process consists of, wired together."""

    def __init__(self, config: Config, link: socket.socket) -> None:
        self._config = config
        self._launcher = LauncherLink(link)
        self._sessions: set[Session] = set()
        self._stopping = asyncio.Event()
        self._grace_s = 0.0
        self._exit_status = 0
        self._chores: set[asyncio.Task[None]] = set()
        self._reloading = asyncio.Lock()
        self._store = Store(config.store_url)
        self._store.migrate()
        self._catalogue = SnapshotCache(self._store, changed=self._catalogue_changed)
        self._audit = AuditLog.open(
            config.audit.directory, sync=config.audit.sync, segment_bytes=config.audit.segment_mib << 20
        )
        self._audit_fault = ""
        self._logins = LoginGuard(
            self._store,
            holder=f"{socket.gethostname()}:{config.path}",
            by=f"{config.name} on {socket.gethostname()}",
            tell=self._tell_starts,
            hold=lambda token, reason: self._tokens.hold(token, reason),
            record=self._record_stop,
        )
        self._tokens = TokenPools(
            max_queue=config.limits.queue,
            request_replacement=self._request_replacement,
            completed=lambda completions: self._service.completed(completions),
            listener=self._logins,
            crashed=lambda job: self._service.crashed(job),
        )
        self._counters = Counters(config.metrics.series)
        self._counters.begin_window(time.monotonic())
        self._limits = RateLimits(_share_limits(config))
        self._hold = KeyHold()
        self._service = KeyService(
            cache=self._catalogue,
            audit=self._audit,
            pools=self._tokens.pools,
            clock=time.monotonic,
            counters=self._counters,
            limits=self._limits,
            hold=self._hold,
        )
        self._apply_tokens(config)
        self._admission = Admission(config.limits)
        self._tree = self._audit.tree()
        self._keys = KeyHandlers(cache=self._catalogue, pools=self._tokens.pools, clock=time.monotonic)
        origin = origin_of(config.name)
        continuity = Continuity(
            origin,
            audit=self._audit,
            cache=self._catalogue,
            hold=self._hold,
            remembered=self._store.query(lambda tx: tx.audit_logs.head(origin)),
            discontinuities=self._store.query(lambda tx: tx.audit_logs.discontinuities(origin)),
        )
        self._checkpointer = Checkpointer(
            origin=origin,
            audit=self._audit,
            tree=self._tree,
            service=self._service,
            snapshot=self._snapshot,
            continuity=continuity,
            make_key=self._keys.generate_checkpoint_key,
        )
        self._keeper = LogGuard(
            config.audit,
            audit=self._audit,
            checkpointer=self._checkpointer,
            continuity=continuity,
            hold=self._hold,
        )
        self._reconciler = Reconciler(pools=self._tokens.pools, snapshot=self._snapshot)
        self._state = self._make_state()
        self._enrolments = EnrolmentHandlers(cache=self._catalogue, audit=self._audit, pins=self._pins)
        self._desk = self._make_desk()
        self._metrics = MetricsEndpoint(lambda: self._state.numbers(time.monotonic()))
        self._listener = SshListener(
            snapshot=self._snapshot,
            admission=self._admission,
            make_session=self._make_session,
            enrolments=self._enrolments,
        )

    # --- life ---

    async def run(self) -> int:
        """Serve until the launcher says drain or goes away; returns the exit status."""
        await self._record("daemon.started")
        self._start_chore(self._logins.follow())
        await self._listener.apply(self._config.listen, self._config.limits)
        await self._metrics.apply(self._config.metrics.address)
        self._launcher.listen(self._handle_launcher, self._launcher_ended)
        self._launcher.send(self._ready_notice())
        log.info("front.ready", address=", ".join(str(address) for address in self._listener.ports))
        self._start_chore(self._check_regularly())
        self._start_chore(self._catalogue.follow())
        self._start_chore(self._tokens.follow())
        self._start_chore(self._keeper.follow())
        self._start_chore(self._reconciler.follow())
        self._start_chore(self._checkpointer.follow(self._config.audit.checkpoint_s))
        await self._stopping.wait()
        await self._drain()
        await self._close()
        return self._exit_status

    async def _drain(self) -> None:
        """Answer what is open, take nothing new, and let peers go elsewhere."""
        log.info("front.draining")
        self._service.drain()
        self._listener.stop_accepting()
        for session in list(self._sessions):
            session.drain(int(self._grace_s * 1000))
        deadline = time.monotonic() + self._grace_s
        while not self._idle() and time.monotonic() < deadline:  # noqa: ASYNC110  several things to wait for, seldom
            await asyncio.sleep(0.02)

    def _idle(self) -> bool:
        return self._desk.idle and all(session.idle for session in self._sessions)

    async def _close(self) -> None:
        for chore in list(self._chores):
            chore.cancel()
        self._launcher.close()
        for session in list(self._sessions):
            session.close()
        self._listener.close()
        await self._metrics.close()
        await self._checkpointer.try_checkpoint(with_new_key=False)
        await self._tokens.close(1.0)
        await asyncio.sleep(0)  # what the pools gave up has been noted then
        await self._record("daemon.stopped")
        try:
            await self._audit.close()
        except AuditFailure as error:
            log.error("audit.not_closed", reason=error.detail)
        self._tree.close()
        self._store.close()

    async def _record(self, event: str) -> None:
        """An event of the daemon's own life. A log that cannot be written is no reason not to start or end."""
        try:
            self._audit.event(event, "", name=self._config.name)
            await self._audit.commit_durable()
        except AuditFailure:
            self._watch_audit()

    def _start_chore(self, chore: Coroutine[Any, Any, None]) -> None:
        """Work beside the requests. One that breaks takes the front down, for the launcher to start another."""

        def done(task: asyncio.Task[None]) -> None:
            self._chores.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("front.fault", exc_info=error)
                self._exit_status = EXIT_FAULT
                self._stop(ORPHANED_S)

        task = asyncio.get_running_loop().create_task(chore)
        self._chores.add(task)
        task.add_done_callback(done)

    def _stop(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._stopping.set()

    # --- the launcher ---

    def _handle_launcher(self, message: AnyToFront, descriptors: list[int]) -> None:
        match message:
            case WorkerStarted():
                self._tokens.attach(message, descriptors)
            case WorkerEnded():
                self._tokens.ended(message)
            case Reload():
                self._start_chore(self._reload())
            case Drain():
                self._stop(self._config.limits.drain_s)

    def _launcher_ended(self, broken: bool) -> None:
        """Stop: the launcher is gone, or so broken that only a new one can help."""
        if broken:
            self._exit_status = EXIT_FAULT
        self._stop(min(ORPHANED_S, self._config.limits.drain_s))

    def _request_replacement(self, pid: int) -> None:
        self._launcher.send(ReplaceWorker(pid))

    def _tell_starts(self, token: str, starts: Starts, cleared: bool) -> None:
        self._launcher.send(PermitStarts(token, starts, cleared))

    def _record_stop(self, stop: LoginStop) -> None:
        """A refused PIN is an event of the log. What cannot be written now is in the store all the same."""
        with contextlib.suppress(AuditFailure):
            self._audit.event("token.logins-stopped", "", token=stop.token, reason=stop.reason)
            self._audit.commit()

    def _apply_tokens(self, config: Config) -> None:
        self._tokens.apply(config.tokens)
        self._logins.apply(token.name for token in config.tokens)

    async def _reload(self) -> None:
        """Take over what can change while running. A fault leaves everything as it was."""
        async with self._reloading:
            good = not self._stopping.is_set()
            try:
                config = configuration.load(self._config.path)
                if good:
                    await self._listener.apply(config.listen, config.limits)
            except ConfigurationError as error:
                good = False
                for fault in error.faults:
                    log.error("reload.refused", reason=fault)
            if good:
                self._take_over(config)
                await self._metrics.apply(config.metrics.address)
            self._launcher.send(Reloaded(applied=good))

    def _take_over(self, config: Config) -> None:
        for setting in _fixed(self._config, config):
            log.warning("reload.needs_restart", reason=f"{setting} has changed; that counts after a restart")
        self._config = config
        self._admission.limits = config.limits
        self._limits.limits = _share_limits(config)
        self._apply_tokens(config)
        observe.configure("front", config.log_level)
        log.info("reload.done", address=", ".join(str(address) for address in self._listener.ports))

    # --- parts ---

    def _snapshot(self) -> Snapshot:
        return self._catalogue.snapshot

    def _catalogue_changed(self) -> None:
        self._listener.recheck()
        self._logins.store_changed()

    def _make_state(self) -> StatusHandlers:
        return StatusHandlers(
            name=self._config.name,
            started_at=datetime.now(UTC),
            cache=self._catalogue,
            service=self._service,
            pools=self._tokens.pools,
            audit=self._audit,
            checkpointer=self._checkpointer,
            log_guard=self._keeper,
            admission=lambda: self._admission,
            sessions=lambda: len(self._sessions),
        )

    def _pins(self, role: Role) -> tuple[list[str], list[str]]:
        ports = self._listener.ports if role is Role.FRONT_END else self._listener.operator_ports
        return [str(address) for address in ports], self._listener.pins

    def _make_desk(self) -> Dispatcher:
        clients = ClientHandlers(
            cache=self._catalogue, may_rotate=lambda: self._config.listen.client_key_rotation
        )
        audit = AuditHandlers(
            audit=self._audit, checkpointer=self._checkpointer, log_guard=self._keeper, cache=self._catalogue
        )
        certificates = CertificateHandlers(cache=self._catalogue, service=self._service)
        grants = GrantHandlers(cache=self._catalogue)
        tokens = TokenHandlers(
            cache=self._catalogue,
            logins=self._logins,
            pools=self._tokens.pools,
            differences=self._reconciler.found,
        )
        groups = (tokens, self._keys, certificates, clients, grants, self._enrolments, self._state, audit)
        handlers = {request: handler for group in groups for request, handler in group.handlers().items()}
        return Dispatcher(snapshot=self._snapshot, audit=self._audit, handlers=handlers)

    def _make_session(self, identity: Identity, transport: Transport) -> Session:
        session = Session(
            identity,
            transport,
            service=self._service,
            dispatch=self._desk.dispatch,
            max_open_requests=self._config.limits.open_requests,
            clock=time.monotonic,
            ended=self._sessions.discard,
        )
        self._sessions.add(session)
        return session

    async def _check_regularly(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            now = time.monotonic()
            for session in list(self._sessions):
                session.check(now)
            self._listener.check()
            self._counters.tick(now)
            with contextlib.suppress(AuditFailure):  # a log that could not be written recovers in a commit
                self._audit.commit()
            self._watch_audit()
            self._watch_store()

    def _watch_store(self) -> None:
        """Use no key on grants that may have been taken back long ago."""
        stale = self._catalogue.age_s > self._config.store_fresh_s
        error = StoreFailure("the store has been away for too long") if stale else None
        if self._hold.set(Reason.STORE, error):
            log.error("store.stale") if stale else log.info("store.fresh")

    def _watch_audit(self) -> None:
        """Log when the audit log becomes unwritable, why, and when it is well again."""
        fault = "" if self._audit.writable else self._audit.fault or "syncing fails"
        if fault and not self._audit_fault:
            log.error("audit.unwritable", reason=fault)
        elif self._audit_fault and not fault:
            log.info("audit.writable")
        self._audit_fault = fault

    def _ready_notice(self) -> FrontReady:
        return FrontReady([str(address) for address in self._listener.ports], self._listener.host_key_line)


def _share_limits(config: Config) -> RateLimit:
    return RateLimit(rate=config.limits.client_rate, open_operations=config.limits.client_open)


def _fixed(before: Config, after: Config) -> list[str]:
    """The settings that differ but are read at the start only."""
    pairs = {
        "name": (before.name, after.name),
        "store": (before.store_url, after.store_url),
        "audit": (before.audit, after.audit),
        "users": (before.users, after.users),
        "limits.queue": (before.limits.queue, after.limits.queue),
        "metrics.series": (before.metrics.series, after.metrics.series),
    }
    return [setting for setting, (old, new) in pairs.items() if old != new]


def main(arguments: list[str]) -> int:
    """Entry point of the process; the launcher calls it."""
    parser = argparse.ArgumentParser(prog="hsmd.daemon.front.app")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--launcher-fd", type=int, required=True)
    options = parser.parse_args(arguments)
    harden()
    run_as_batch()
    try:
        config = configuration.load(options.config)
        observe.configure("front", config.log_level)
        link = socket.socket(fileno=options.launcher_fd)
        link.setblocking(False)
        return uvloop.run(_run(config, link))
    except HsmdError as error:
        log.error("front.cannot_start", error=error.text, reason=error.detail)
        return EXIT_CANNOT_START


async def _run(config: Config, link: socket.socket) -> int:
    front = Front(config, link)
    tune_garbage_collection()
    return await front.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
