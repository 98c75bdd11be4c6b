"""The front process: identity, grants, audit, admission; no PIN, no PKCS#11 module.

This module is its life cycle: start, reload, drain and stop. What it consists of is built in `composition.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import uvloop

from hsmd import observe
from hsmd.daemon.config import reader as configuration
from hsmd.daemon.config.settings import Config
from hsmd.daemon.front.composition import Parts
from hsmd.daemon.front.launcher_link import LauncherLink
from hsmd.daemon.front.signing.hold import Reason
from hsmd.daemon.ipc.launcher_messages import (
    AnyToFront,
    Drain,
    FrontReady,
    Reload,
    Reloaded,
    WorkerEnded,
    WorkerStarted,
)
from hsmd.errors import AuditFailure, ConfigurationError, HsmdError, StoreFailure
from hsmd.system.free_memory import FreeMemory
from hsmd.system.process import harden, run_as_batch, tune_garbage_collection

CHECK_S = 1.0
"""How often sessions, connections, the audit log and the age of the grants are checked."""
ORPHANED_S = 1.0
"""Time for open requests when the launcher has died: its successor needs the addresses and the audit log."""
TURN_S = 1.5
"""Time for the first login to a token to end, and for the turn to be given back to the store."""
SWITCH_S = 0.001
"""How long a thread that reads the log or the store may keep the interpreter from the event loop."""
EXIT_FAULT = 70
"""EX_SOFTWARE of sysexits.h: a fault of the front; the launcher starts another one."""
EXIT_CANNOT_START = 78
"""EX_CONFIG of sysexits.h: another start will not help until the configuration is fixed."""

log = observe.logger()


class Front:
    """Runs the parts of the front until the launcher tells it to drain."""

    def __init__(self, config: Config, launcher: LauncherLink, parts: Parts) -> None:
        self._config = config
        self._launcher = launcher
        self._parts = parts
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._grace_s = 0.0
        self._exit_status = 0
        self._reloading = asyncio.Lock()
        self._audit_fault = ""

    # --- start and stop ---

    async def run(self) -> int:
        """Serve until the launcher sends `Drain` or is gone; returns the exit status."""
        parts = self._parts
        await self._record("daemon.started")
        self._start_task(parts.logins.follow())
        await parts.listener.apply(self._config.listen, self._config.limits)
        await parts.metrics.apply(self._config.metrics.address)
        self._launcher.listen(self._handle_launcher, self._launcher_ended)
        self._launcher.send(FrontReady(list(map(str, parts.bound.all)), parts.bound.host_key_line))
        log.info("front.ready", address=str(parts.bound))
        self._start_task(self._check_regularly())
        self._start_task(parts.cache.follow())
        self._start_task(parts.tokens.follow())
        self._start_task(parts.log_guard.follow())
        self._start_task(parts.reconciler.follow())
        self._start_task(parts.followers.poll())
        self._start_task(parts.service.limited_uses.follow())
        self._start_task(parts.housekeeping.follow())
        self._start_task(parts.endings.follow())
        self._start_task(parts.conditions.follow())
        self._start_task(parts.list_keeper.follow())
        for task in parts.vault.tasks():
            self._start_task(task)
        self._start_task(parts.checkpointer.follow(self._config.audit.checkpoint_s))
        await self._stopping.wait()
        await self._drain()
        await self._close()
        return self._exit_status

    async def _drain(self) -> None:
        """Accept nothing new, announce the stop to peers, and wait until open requests are answered."""
        log.info("front.draining")
        parts = self._parts
        parts.service.drain()
        parts.listener.stop_accepting()
        parts.sessions.drain(int(self._grace_s * 1000))
        deadline = time.monotonic() + self._grace_s
        while not (parts.dispatcher.idle and parts.sessions.idle) and time.monotonic() < deadline:  # noqa: ASYNC110  seldom
            await asyncio.sleep(0.02)

    async def _close(self) -> None:
        parts = self._parts
        await parts.logins.close(TURN_S)
        for task in list(self._tasks):
            task.cancel()
        self._launcher.close()
        parts.sessions.close()
        parts.listener.close()
        await parts.metrics.close()
        await parts.checkpointer.try_checkpoint(with_new_key=False)
        await parts.tokens.close(1.0)
        await asyncio.sleep(0)  # the pools report what they have given up
        await self._record("daemon.stopped")
        await parts.service.limited_uses.close()
        await parts.vault.close()
        try:
            await parts.audit.close()
        except AuditFailure as error:
            log.error("audit.not_closed", reason=error.detail)
        parts.tree.close()
        parts.store.close()

    async def _record(self, event: str) -> None:
        """Record that the daemon started or stopped; it does so even if the log cannot be written."""
        try:
            self._parts.audit.event(event, "", name=self._config.name)
            await self._parts.audit.commit_durable()
        except AuditFailure:
            self._watch_audit()

    def _start_task(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a task in the background. If it fails the front stops, and the launcher starts another one."""

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("front.fault", exc_info=error)
                self._exit_status = EXIT_FAULT
                self._stop(ORPHANED_S)

        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(done)

    def _stop(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._stopping.set()

    # --- the launcher ---

    def _handle_launcher(self, message: AnyToFront, descriptors: list[int]) -> None:
        match message:
            case WorkerStarted():
                self._parts.tokens.attach(message, descriptors)
            case WorkerEnded():
                self._parts.tokens.ended(message)
            case Reload():
                self._start_task(self._reload())
            case Drain():
                self._stop(self._config.limits.drain_s)

    def _launcher_ended(self, broken: bool) -> None:
        """Stop: the launcher is gone, or so broken that only a new one can help."""
        if broken:
            self._exit_status = EXIT_FAULT
        self._stop(min(ORPHANED_S, self._config.limits.drain_s))

    # --- reload ---

    async def _reload(self) -> None:
        """Apply what can change while the front runs. If the new configuration has a fault, nothing changes."""
        async with self._reloading:
            good = not self._stopping.is_set()
            try:
                config = configuration.load(self._config.path)
                if good:
                    await self._parts.listener.apply(config.listen, config.limits)
            except ConfigurationError as error:
                good = False
                for fault in error.faults:
                    log.error("reload.refused", reason=fault)
            if good:
                self._apply(config)
                await self._parts.metrics.apply(config.metrics.address)
            self._launcher.send(Reloaded(applied=good))

    def _apply(self, config: Config) -> None:
        for setting in _fixed(self._config, config):
            log.warning("reload.needs_restart", reason=f"{setting} has changed; that counts after a restart")
        self._config = config
        self._parts.apply(config)
        observe.configure("front", config.log_level)
        log.info("reload.done", address=str(self._parts.bound))

    # --- regular checks ---

    async def _check_regularly(self) -> None:
        parts, memory = self._parts, FreeMemory()
        while True:
            await asyncio.sleep(CHECK_S)
            memory.check()
            parts.sessions.check()
            parts.listener.check()
            parts.counters.tick(time.monotonic())
            with contextlib.suppress(AuditFailure):  # a commit also recovers a log that could not be written
                parts.audit.commit()
            self._watch_audit()
            self._watch_store()

    def _watch_store(self) -> None:
        """Hold all keys while the grants are so old that they may have been revoked."""
        stale = self._parts.cache.age_s > self._config.store_fresh_s
        error = StoreFailure("the store has been away for too long") if stale else None
        if self._parts.hold.set(Reason.STORE, error):
            log.error("store.stale") if stale else log.info("store.fresh")

    def _watch_audit(self) -> None:
        """Log when the audit log becomes unwritable, and why, and when it is writable again."""
        audit = self._parts.audit
        fault = "" if audit.writable else audit.fault or "syncing fails"
        if fault and not self._audit_fault:
            log.error("audit.unwritable", reason=fault)
        elif self._audit_fault and not fault:
            log.info("audit.writable")
        self._audit_fault = fault


def _fixed(before: Config, after: Config) -> list[str]:
    """The settings that differ, and are read only at the start."""
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
    sys.setswitchinterval(SWITCH_S)
    try:
        config = configuration.load(options.config)
        observe.configure("front", config.log_level)
        link = socket.socket(fileno=options.launcher_fd)
        link.setblocking(False)
        return uvloop.run(_run(config, LauncherLink(link)))
    except HsmdError as error:
        log.error("front.cannot_start", error=error.text, reason=error.detail)
        return EXIT_CANNOT_START


async def _run(config: Config, launcher: LauncherLink) -> int:
    front = Front(config, launcher, Parts(config, launcher))
    tune_garbage_collection()
    return await front.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
