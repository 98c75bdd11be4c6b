"""The agent process: puts configuration, cache, upstream and local sessions together, and runs them from start to drain."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hsmd import observe
from hsmd.agent import cache as caches, config as configs
from hsmd.agent.acceptor import Acceptor
from hsmd.agent.certificates import Certificates
from hsmd.agent.config import AgentConfig
from hsmd.agent.listener import Listener, inherited, listen
from hsmd.agent.served_reports import ServedReports
from hsmd.agent.service import Service
from hsmd.agent.session import Session
from hsmd.agent.sessions import Sessions
from hsmd.agent.status import AgentStatus
from hsmd.agent.upstream import Upstream
from hsmd.client.connection import Connection
from hsmd.client.witness import Witness
from hsmd.deployment import installed
from hsmd.deployment.versions import CertificateVersions
from hsmd.errors import HsmdError
from hsmd.metrics import MetricsEndpoint
from hsmd.metrics.agent_families import agent_families
from hsmd.system.sd_notify import notify

REFRESH_S = 60.0
"""Longest interval between two comparisons of the cache with the daemon."""
REFRESH_AT_MOST_EVERY_S = 1.0
STORE_AT_MOST_EVERY_S = 1.0
ONE_BY_ONE = 16
"""If more keys than this have another certificate, all keys are compared with the daemon."""
REST = 10
"""Comparing and storing many keys takes time: pause this many times as long as it took before it is done again,"""
MOST_PAUSE_S = 20.0
"""but no longer than this."""
CHECK_S = 1.0
WITNESS_S = 60.0
"""Interval of the checks of the daemons' audit logs; they are also checked on each new connection."""
DRAIN_S = 5.0
CONNECT_S = 3.0
"""How long systemd is not told that the agent is ready because no daemon is connected; servers start without one, too."""

log = observe.logger()


class Agent:
    """One agent; `reload` and `stop` may be called while `run` runs."""

    def __init__(self, config_path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._config_path = config_path
        self._config = configs.load(config_path)
        self._cache = caches.Cache(self._config.state)
        self._certificates = Certificates(self._cache, CertificateVersions(self._config.state))
        self._witness = _witness(self._config)
        self._outdated = outdated = asyncio.Event()
        self._connected = asyncio.Event()
        self._upstream = Upstream(
            changed=self._note_connected,
            replaced=self._note_replaced,
            missed=outdated.set,
            health_changed=lambda: self._status.choose_daemons(),
            witness=self._witness,
            clock=clock,
        )
        self._reports = ServedReports(
            installed.path_for(self._config.state), lambda: self._upstream.connections, clock=clock
        )
        self._sessions = Sessions(clock=clock)
        self._status = AgentStatus(self._config, self._cache, self._upstream, self._sessions, clock=clock)
        self._service = Service(
            self._config, self._cache, self._upstream, self._witness, outdated, self._status
        )
        self._metrics = MetricsEndpoint(
            lambda: agent_families(self._status.numbers()), lambda: self._status.health()
        )
        self._stopping = asyncio.Event()
        self._listener: Listener | None = None
        self._acceptor: Acceptor | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._replaced: set[str] = set()
        """Keys that have another certificate, of which the agent has not fetched it yet."""
        self._some_replaced = asyncio.Event()

    # --- start, reload and stop ---

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until `stop`, then finish open requests. `ready` is called once connections are accepted.

        Raises ConfigurationError or Conflict if it cannot start.
        """
        self._cache.load()
        self._listener = inherited() or listen(self._config.socket)
        tasks = [
            asyncio.create_task(task())
            for task in (
                self._keep_cache,
                self._keep_replaced,
                self._keep_file,
                self._certificates.keep,
                self._reports.keep,
                self._keep_limits,
                self._keep_witness,
                self._upstream.health.follow,
            )
        ]
        try:
            self._upstream.apply(self._config.daemons)
            self._acceptor = self._serve(self._listener)
            await self._metrics.apply(self._config.metrics)
            log.info("agent.ready", path=str(self._config.socket.path), count=len(self._cache.names()))
            ready()
            await self._stopping.wait()
            await self._drain()
        finally:
            for task in tasks:
                task.cancel()
            self._sessions.close()
            await self._metrics.close()
            await self._upstream.close()
            await asyncio.gather(*tasks, *self._tasks, return_exceptions=True)
            await self._certificates.settle()
            await self._cache.settle()
            self._listener.close()
            log.info("agent.stopped", client=self._config.client)

    def stop(self) -> None:
        """Refuse new requests, finish open ones, and end."""
        self._stopping.set()

    async def connected(self, within_s: float) -> None:
        """Return when a daemon has been available, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._connected.wait()

    async def reload(self) -> None:
        """Read the configuration again. Faults in it are logged, and then nothing changes.

        `agent.state`, and a socket that systemd passed, change only when the agent is restarted.
        """
        try:
            config = configs.load(self._config_path)
            if (
                config.socket != self._config.socket
                and self._listener is not None
                and self._listener.path is not None
            ):
                self._move(config)
        except HsmdError as error:
            log.error("agent.reload_refused", error=error.text)
            return
        self._config = config
        self._witness = _witness(config)
        self._service.apply(config, self._witness)
        self._status.apply(config)
        await self._metrics.apply(config.metrics)
        self._upstream.trust(self._witness)
        for removed in self._upstream.apply(config.daemons):
            self.spawn(self._close_later(removed))
        self._outdated.set()
        log.info("agent.reloaded", path=str(self._config_path))

    def _move(self, config: AgentConfig) -> None:
        """Apply new settings of the socket; at a new path, the new socket is ready before the old one is closed."""
        assert self._listener is not None
        assert self._acceptor is not None
        if config.socket.path == self._listener.path:
            self._listener.protect(config.socket)
            return
        old_listener, old_acceptor = self._listener, self._acceptor
        self._listener = listen(config.socket)
        self._acceptor = self._serve(self._listener)
        old_acceptor.close()
        old_listener.close()

    def _serve(self, listener: Listener) -> Acceptor:
        return Acceptor(
            listener.socket, self._sessions, lambda user: Session(self._service, self._sessions, user)
        )

    async def _drain(self) -> None:
        assert self._acceptor is not None
        assert self._listener is not None
        self._acceptor.close()
        self._listener.close()
        self._sessions.drain(round(DRAIN_S * 1000))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await self._sessions.drained.wait()

    async def _close_later(self, connection: Connection) -> None:
        """Let a daemon that is no longer configured answer its open requests, then disconnect."""
        await asyncio.sleep(DRAIN_S)
        await self._upstream.end(connection)

    def spawn(self, coroutine: Any) -> None:
        """Run a coroutine in a task that `run` waits for."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- background tasks ---

    async def _keep_limits(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            self._sessions.check()

    async def _keep_witness(self) -> None:
        while True:
            await asyncio.sleep(WITNESS_S)
            await self._upstream.examine()

    async def _keep_cache(self) -> None:
        """Compare the cache with a daemon after each connect, at events, after requests for unknown keys, and at intervals."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_S):
                    await self._outdated.wait()
            self._outdated.clear()
            began = time.monotonic()
            compared = await self._service.refresh()
            await asyncio.sleep(
                _pause_s(REFRESH_AT_MOST_EVERY_S, began) if compared else REFRESH_AT_MOST_EVERY_S
            )

    def _note_connected(self, connection: Connection) -> None:
        self._connected.set()
        self._outdated.set()
        self._reports.connected(connection)

    def _note_replaced(self, name: str) -> None:
        self._replaced.add(name)
        self._some_replaced.set()

    async def _keep_replaced(self) -> None:
        """Fetch the certificates of keys that have another one, a few alone, and many with all keys."""
        while True:
            await self._some_replaced.wait()
            self._some_replaced.clear()
            names, self._replaced = self._replaced, set()
            if len(names) > ONE_BY_ONE:
                self._outdated.set()
                continue
            for name in names:
                await self._service.update(name)

    async def _keep_file(self) -> None:
        """Write the cache's file after changes. It is written as a whole, so changes that follow each other are collected."""
        while True:
            await self._cache.unstored.wait()
            began = time.monotonic()
            await self._cache.store()
            await asyncio.sleep(_pause_s(STORE_AT_MOST_EVERY_S, began))


def _pause_s(least_s: float, began: float) -> float:
    """How long to pause after work that began then (monotonic) and has just been done."""
    return min(MOST_PAUSE_S, max(least_s, (time.monotonic() - began) * REST))


def _witness(config: AgentConfig) -> Witness:
    return Witness(config.state / "witness", config.operators)


async def run(config_path: Path) -> None:
    """Run an agent until SIGTERM or SIGINT; SIGHUP reloads. Raises ConfigurationError or Conflict."""
    agent = Agent(config_path)
    loop = asyncio.get_running_loop()

    def reload() -> None:
        agent.spawn(_reload(agent))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stop)
    loop.add_signal_handler(signal.SIGHUP, reload)
    await agent.run(ready=lambda: agent.spawn(_announce(agent)))
    notify("STOPPING=1")


async def _announce(agent: Agent) -> None:
    """Tell systemd that the agent is ready: what is started next may make handshakes at once."""
    await agent.connected(CONNECT_S)
    notify("READY=1")


async def _reload(agent: Agent) -> None:
    notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
    await agent.reload()
    notify("READY=1")
