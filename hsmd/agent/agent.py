"""The agent process: puts configuration, cache, upstream and local sessions together, and runs them from start to drain."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hsmd import observe
from hsmd.agent import cache as caches, config as configs
from hsmd.agent.config import AgentConfig
from hsmd.agent.listener import Listener, inherited, listen
from hsmd.agent.session import Session
from hsmd.agent.sessions import Sessions
from hsmd.agent.upstream import Cancellable, Upstream
from hsmd.client.channel import Answered
from hsmd.client.connection import Connection
from hsmd.client.endpoint import Endpoint
from hsmd.client.witness import Witness
from hsmd.errors import HsmdError, NotFound, Refused, RefusedHere, Unavailable
from hsmd.protocol import messages
from hsmd.system.sd_notify import notify

REFRESH_S = 60.0
"""Longest interval between two comparisons of the cache with the daemon."""
REFRESH_AT_MOST_EVERY_S = 1.0
FETCH_S = 10.0
ASK_S = 2.0
CHECK_S = 1.0
WITNESS_S = 60.0
"""Interval of the checks of the daemons' audit logs; they are also checked on each new connection."""
DRAIN_S = 5.0

log = observe.logger()


class Agent:
    """One agent; `reload` and `stop` may be called while `run` runs."""

    def __init__(self, config_path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._config_path = config_path
        self._config = configs.load(config_path)
        self._cache = caches.Cache(self._config.state)
        self._witness = _witness(self._config)
        self._upstream = Upstream(
            changed=lambda _: self._refresh.set(),
            event=lambda _: self._refresh.set(),
            witness=self._witness,
            clock=clock,
        )
        self._sessions = Sessions(clock=clock)
        self._allowed: dict[int, frozenset[bytes]] = {}
        self._refresh = asyncio.Event()
        self._stopping = asyncio.Event()
        self._listener: Listener | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    # --- start, reload and stop ---

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until `stop`, then finish open requests. `ready` is called once connections are accepted.

        Raises ConfigurationError or Conflict if it cannot start.
        """
        self._cache.load()
        self._listener = inherited() or listen(self._config.socket)
        tasks = [
            asyncio.create_task(task()) for task in (self._keep_cache, self._keep_limits, self._keep_witness)
        ]
        try:
            self._upstream.apply(self._config.daemons)
            self._server = await self._serve(self._listener)
            log.info("agent.ready", path=str(self._config.socket.path), count=len(self._cache.names()))
            ready()
            await self._stopping.wait()
            await self._drain()
        finally:
            for task in tasks:
                task.cancel()
            self._sessions.close()
            await self._upstream.close()
            await asyncio.gather(*tasks, *self._tasks, return_exceptions=True)
            self._listener.close()
            log.info("agent.stopped", client=self._config.client)

    def stop(self) -> None:
        """Refuse new requests, finish open ones, and end."""
        self._stopping.set()

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
                await self._move(config)
        except HsmdError as error:
            log.error("agent.reload_refused", error=error.text)
            return
        self._config = config
        self._allowed.clear()
        self._witness = _witness(config)
        self._upstream.trust(self._witness)
        for removed in self._upstream.apply(config.daemons):
            self.spawn(self._close_later(removed))
        self._refresh.set()
        log.info("agent.reloaded", path=str(self._config_path))

    async def _move(self, config: AgentConfig) -> None:
        """Apply new settings of the socket; at a new path, the new socket is ready before the old one is closed."""
        assert self._listener is not None
        assert self._server is not None
        if config.socket.path == self._listener.path:
            self._listener.protect(config.socket)
            return
        old_listener, old_server = self._listener, self._server
        self._listener = listen(config.socket)
        self._server = await self._serve(self._listener)
        old_server.close()
        old_listener.close()

    async def _serve(self, listener: Listener) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        return await loop.create_unix_server(lambda: Session(self, self._sessions), sock=listener.socket)

    async def _drain(self) -> None:
        assert self._server is not None
        assert self._listener is not None
        self._server.close()
        self._listener.close()
        self._sessions.drain(round(DRAIN_S * 1000))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await self._sessions.drained.wait()

    async def _close_later(self, connection: Connection) -> None:
        """Let a daemon that is no longer configured answer its open requests, then disconnect."""
        await asyncio.sleep(DRAIN_S)
        await connection.close()

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
                    await self._refresh.wait()
            self._refresh.clear()
            await self._fetch()
            await asyncio.sleep(REFRESH_AT_MOST_EVERY_S)

    async def _fetch(self) -> None:
        connection = self._upstream.available
        if connection is None:
            return
        try:
            if self._cache.replace(await caches.fetch(connection, timeout_s=FETCH_S)):
                self._allowed.clear()
                log.info("cache.changed", count=len(self._cache.names()))
        except HsmdError as error:
            log.warning("cache.not_fetched", error=error.text)

    # --- called by sessions ---

    def keys_for(self, uid: int) -> frozenset[bytes]:
        allowed = self._allowed.get(uid)
        if allowed is None:
            allowed = self._allowed[uid] = self._config.rules.keys_for(uid, self._cache.digests())
        return allowed

    def missed(self, uid: int, key: bytes) -> HsmdError:
        """One text for an unknown key, a missing grant and the local policy, so that it does not reveal which keys exist."""
        self._refresh.set()
        if not self._cache.complete:
            return self._keys_unknown()
        client = self._config.client
        return RefusedHere(
            f"agent.toml does not allow user {uid} to use this key, or the daemon does not grant it to {client}; "
            "`hsmd agent check` shows which"
        )

    def refused(self, purpose: str) -> HsmdError:
        self._refresh.set()
        return RefusedHere(f"the daemon does not grant {self._config.client} this key for {purpose}")

    def forward(self, body: bytes, deadline_ms: int, answered: Answered) -> Cancellable:
        return self._upstream.forward(body, deadline_ms, answered)

    async def control(self, uid: int, request: messages.Request) -> Any:
        """The result of a request about keys, from the cache if no daemon can be reached. Raises HsmdError."""
        if isinstance(request, messages.WhoAmI):
            return self._identity(uid)
        if isinstance(request, messages.KeyList):
            return self._key_page(uid, request)
        if isinstance(request, messages.KeyShow):
            return (await self._visible(uid, request.name)).info
        if isinstance(request, messages.CertificateExport):
            key = await self._visible(uid, request.key)
            if not key.chain:
                raise NotFound(
                    f"key {request.key} has no certificate; `hsmd cert import` on the key host stores one"
                )
            return messages.PemDocument(key.chain)
        raise Refused(detail="the agent does not support such requests")

    def _identity(self, uid: int) -> messages.Identity:
        """Role and credential are the agent's own; `daemon` is the address of the daemon in use, empty if there is none."""
        connection = self._upstream.available
        endpoint = None if connection is None else connection.endpoint
        daemon = endpoint.address if isinstance(endpoint, Endpoint) else ""
        return messages.Identity(
            self._config.client, "agent", f"uid:{uid}", daemon, self._upstream.problems, self._notices()
        )

    def _notices(self) -> list[str]:
        """The declarations by which breaks of logs were accepted."""
        with contextlib.suppress(HsmdError):
            return [memory.accepted for memory in self._witness.memories.all() if memory.accepted]
        return []

    def _key_page(self, uid: int, request: messages.KeyList) -> messages.KeyPage:
        names = [name for name in self._cache.names() if name > request.after and self._may_see(uid, name)]
        keys = [key.info for name in names[: request.limit] if (key := self._cache.get(name)) is not None]
        return messages.KeyPage(keys, len(names) > request.limit)

    async def _visible(self, uid: int, name: str) -> caches.CachedKey:
        """The key as the daemon has it now or, if it cannot be reached, as it is in the cache. Raises Refused or Unavailable."""
        if not self._may_see(uid, name):
            raise Refused
        await self._update(name)
        key = self._cache.get(name)
        if key is not None:
            return key
        if not self._cache.complete:
            raise self._keys_unknown()
        raise Refused

    @staticmethod
    def _keys_unknown() -> HsmdError:
        return Unavailable("the list of keys is not known yet: no daemon could be reached")

    async def _update(self, name: str) -> None:
        connection = self._upstream.available
        if connection is None:
            return
        try:
            changed = self._cache.put(await caches.fetch_one(connection, name, timeout_s=ASK_S))
        except (NotFound, Refused):
            changed = self._cache.forget(name)
        except HsmdError as error:
            log.warning("cache.not_fetched", error=error.text)
            return
        if changed:
            self._allowed.clear()

    def _may_see(self, uid: int, name: str) -> bool:
        """Public halves are shown to users of the key, and to root and the agent's own user."""
        return uid in (0, os.geteuid()) or self._config.rules.allow(uid, name)


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
    await agent.run(ready=lambda: notify("READY=1"))
    notify("STOPPING=1")


async def _reload(agent: Agent) -> None:
    notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
    await agent.reload()
    notify("READY=1")
