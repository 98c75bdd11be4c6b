"""The front process: identity, grants, audit, admission; no PIN, no PKCS#11 module.

This is the only place that knows the configuration and the concrete classes together.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop

from hsmd import observe
from hsmd.daemon import config as configuration
from hsmd.daemon.access.identity import Identity
from hsmd.daemon.access.snapshot import Snapshot
from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.config import Config
from hsmd.daemon.control.clients import ClientDesk
from hsmd.daemon.control.desk import Desk
from hsmd.daemon.control.keys import KeyDesk
from hsmd.daemon.control.state import StateDesk
from hsmd.daemon.keys.catalogue import Catalogue
from hsmd.daemon.keys.service import KeyService
from hsmd.daemon.launcher import MAX_PACKET_BYTES
from hsmd.daemon.listeners.admission import Admission
from hsmd.daemon.listeners.session import Session, Transport
from hsmd.daemon.listeners.ssh import SshListener
from hsmd.daemon.process import harden, tune_garbage_collection
from hsmd.daemon.store import Store
from hsmd.daemon.token.pool import Completion, TokenPool
from hsmd.errors import AuditFailure, ConfigurationError, HsmdError

CHECK_S = 1.0
"""How often sessions are checked for peers that hold frames or answers."""
WORKER_WINDOW = 32
"""Jobs a worker holds at a time: enough to keep it busy between two wake-ups, few enough to lose little with it."""
EXIT_CANNOT_START = 78
"""EX_CONFIG of sysexits.h: starting again will not help until somebody mends the configuration."""

log = observe.logger()


class Front:
    """Everything the front process consists of, wired together."""

    def __init__(self, config: Config, link: socket.socket) -> None:
        self._config = config
        self._link = link
        self._sessions: set[Session] = set()
        self._stopping = asyncio.Event()
        self._store = Store(config.store_url)
        self._store.migrate()
        self._catalogue = Catalogue(self._store, changed=self._catalogue_changed)
        self._audit = AuditLog.open(config.audit.directory, sync=config.audit.sync)
        self._pools: dict[str, TokenPool] = {}
        self._service = KeyService(
            snapshot=self._snapshot, audit=self._audit, pools=self._pools, clock=time.monotonic
        )
        self._make_pools()
        self._admission = Admission(config.limits)
        self._desk = self._make_desk()
        self._listener = SshListener(
            snapshot=self._snapshot, admission=self._admission, make_session=self._make_session
        )

    # --- life ---

    async def run(self) -> None:
        """Serve until the launcher says drain or goes away."""
        loop = asyncio.get_running_loop()
        self._audit.event("daemon.started", "", name=self._config.name)
        await self._audit.commit_durable()
        await self._listener.apply(self._config.listen)
        loop.add_reader(self._link, self._read_link)
        self._tell_launcher({"ready": self._ready_notice()})
        log.info("front.ready", address=", ".join(str(address) for address in self._listener.ports))
        chores = [asyncio.create_task(self._check_sessions()), asyncio.create_task(self._catalogue.follow())]
        await self._stopping.wait()
        await self._drain()
        for chore in chores:
            chore.cancel()
        loop.remove_reader(self._link)
        await self._close()

    async def _drain(self) -> None:
        """Answer what is open, take nothing new, and let peers go elsewhere."""
        grace_s = self._config.limits.drain_s
        log.info("front.draining")
        self._service.draining = True
        self._listener.stop_accepting()
        for session in list(self._sessions):
            session.drain(grace_s * 1000)
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline and not all(session.idle for session in self._sessions):
            await asyncio.sleep(0.02)

    async def _close(self) -> None:
        for session in list(self._sessions):
            session.close()
        self._listener.close()
        for pool in self._pools.values():
            await pool.close(1.0)
        self._audit.event("daemon.stopped", "", name=self._config.name)
        try:
            await self._audit.commit_durable()
        finally:
            await self._audit.close()
            self._store.close()

    # --- the launcher ---

    def _read_link(self) -> None:
        try:
            packet, descriptors, _, _ = socket.recv_fds(self._link, MAX_PACKET_BYTES, 2)
        except BlockingIOError:
            return
        message = json.loads(packet) if packet else {"drain": True}
        if "worker" in message:
            self._attach(message["worker"], descriptors)
        elif "reload" in message:
            asyncio.get_running_loop().create_task(self._reload())
        elif "drain" in message:
            asyncio.get_running_loop().remove_reader(self._link)
            self._stopping.set()

    def _attach(self, worker: dict[str, Any], descriptors: list[int]) -> None:
        pool = self._pools.get(worker["token"]) or self._make_pool(worker["token"])
        stream, progress_fd = descriptors
        pool.attach(socket.socket(fileno=stream), progress_fd, worker["pid"], worker["control"])

    def _tell_launcher(self, message: dict[str, Any]) -> None:
        try:
            self._link.send(json.dumps(message).encode())
        except OSError as error:
            log.error("launcher.gone", error=str(error.strerror))

    def _request_replacement(self, pid: int) -> None:
        self._tell_launcher({"replace": pid})

    async def _reload(self) -> None:
        """Take over what can change while running. A fault leaves everything as it was."""
        try:
            config = configuration.load(self._config.path)
            await self._listener.apply(config.listen)
        except ConfigurationError as error:
            for fault in error.faults:
                log.error("reload.refused", reason=fault)
            return
        self._config = config
        self._admission.limits = config.limits
        observe.configure("front", config.log_level)
        log.info("reload.done", address=", ".join(str(address) for address in self._listener.ports))

    # --- parts ---

    def _snapshot(self) -> Snapshot:
        return self._catalogue.snapshot

    def _catalogue_changed(self) -> None:
        self._listener.drop_strangers()

    def _make_pools(self) -> None:
        for token in self._config.tokens:
            self._make_pool(token.name)

    def _make_pool(self, name: str) -> TokenPool:
        stall_ms = next((token.stall_ms for token in self._config.tokens if token.name == name), 2_000)
        pool = TokenPool(
            name,
            window=WORKER_WINDOW,
            max_queue=self._config.limits.queue,
            stall_s=stall_ms / 1000,
            clock=time.monotonic,
            request_replacement=self._request_replacement,
            completed=self._completed,
            log=log,
        )
        self._pools[name] = pool
        return pool

    def _completed(self, completions: list[Completion]) -> None:
        self._service.completed(completions)

    def _make_desk(self) -> Desk:
        keys = KeyDesk(
            catalogue=self._catalogue, service=self._service, pools=self._pools, clock=time.monotonic
        )
        clients = ClientDesk(catalogue=self._catalogue)
        state = StateDesk(
            name=self._config.name,
            started_at=datetime.now(UTC),
            catalogue=self._catalogue,
            service=self._service,
            pools=self._pools,
            audit=self._audit,
            admission=lambda: self._admission,
        )
        handlers = keys.handlers() | clients.handlers() | state.handlers()
        return Desk(snapshot=self._snapshot, audit=self._audit, handlers=handlers)

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

    async def _check_sessions(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            now = time.monotonic()
            for session in list(self._sessions):
                session.check(now)
            with contextlib.suppress(AuditFailure):  # a log that could not be written recovers in a commit
                self._audit.commit()

    def _ready_notice(self) -> dict[str, Any]:
        return {
            "addresses": [str(address) for address in self._listener.ports],
            "host_key": self._listener.host_key_line,
        }


def main(arguments: list[str]) -> int:
    """Entry point of the process; the launcher calls it."""
    parser = argparse.ArgumentParser(prog="hsmd.daemon.front")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--launcher-fd", type=int, required=True)
    options = parser.parse_args(arguments)
    harden()
    try:
        config = configuration.load(options.config)
        observe.configure("front", config.log_level)
        link = socket.socket(fileno=options.launcher_fd)
        link.setblocking(False)
        uvloop.run(_run(config, link))
    except HsmdError as error:
        log.error("front.cannot_start", error=error.text, reason=error.detail)
        return EXIT_CANNOT_START
    return 0


async def _run(config: Config, link: socket.socket) -> None:
    front = Front(config, link)
    tune_garbage_collection()
    await front.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
