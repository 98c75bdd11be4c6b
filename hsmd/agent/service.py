"""What the agent does for local users: which keys they may use, requests about keys, and key operations sent upstream."""

from __future__ import annotations

import asyncio
import contextlib
import os
from bisect import bisect_right
from typing import Any

from hsmd import observe
from hsmd.agent import cache as caches
from hsmd.agent.config import AgentConfig
from hsmd.agent.fetch import MAX_KEYS, fetch, fetch_one
from hsmd.agent.status import AgentStatus
from hsmd.agent.upstream import Upstream
from hsmd.client.endpoint import Endpoint
from hsmd.client.witness import Witness
from hsmd.errors import HsmdError, InternalFault, NotFound, Refused, RefusedHere, Unavailable
from hsmd.protocol import messages
from hsmd.protocol.chain_pages import ChainPageBuilder
from hsmd.system.control_requests import MAX_RESULT_BYTES

FETCH_S = 10.0
"""Time-out of each request of a comparison of all keys."""
ASK_S = 2.0
"""Time-out of each request about one key that a user waits for."""

_CUT = (
    f"the daemon shows {{}} more than {MAX_KEYS:,} keys; the agent keeps the first {MAX_KEYS:,} by name, and the others "
    "cannot be used"
)

log = observe.logger()


class Service:
    """Serves the sessions. `outdated` is set when the cache should be compared with the daemon."""

    def __init__(
        self,
        config: AgentConfig,
        cache: caches.Cache,
        upstream: Upstream,
        witness: Witness,
        outdated: asyncio.Event,
        status: AgentStatus,
    ) -> None:
        self._config = config
        self._cache = cache
        self._upstream = upstream
        self._witness = witness
        self._outdated = outdated
        self._allowed: dict[int, frozenset[bytes]] = {}
        self._seen: dict[int, list[str]] = {}
        """Names of the keys that users may see, sorted: to go through all keys for each page takes milliseconds."""
        self._status = status
        self._updates: dict[str, asyncio.Task[None]] = {}
        """What is asked of the daemon about one key, by its name, for all users that wait for it."""
        self.forward = upstream.forward
        """Send the body of a key operation to a daemon: see `Upstream.forward`."""
        self.count = status.count
        """Count a key operation by its error code; 0: it was performed."""

    def apply(self, config: AgentConfig, witness: Witness) -> None:
        """Use other settings from now on."""
        self._config = config
        self._witness = witness
        self._forget_rights()

    async def refresh(self) -> bool:
        """Compare the cache with the daemon in use, if there is one; return whether that was done. Failures are logged."""
        connection = self._upstream.available
        if connection is None:
            return False
        try:
            fetched = await fetch(connection, self._cache.get, timeout_s=FETCH_S)
        except HsmdError as error:
            log.warning("cache.not_fetched", error=error.text)
            return False
        if self._cache.replace(fetched.keys):
            self._forget_rights()
            log.info("cache.changed", count=len(self._cache.names()))
        if fetched.cut and not self._status.cut:
            log.warning("cache.cut", count=MAX_KEYS)
        self._status.cut = fetched.cut
        self._status.compared()
        return True

    def _forget_rights(self) -> None:
        self._allowed.clear()
        self._seen.clear()

    # --- key operations ---

    def keys_for(self, uid: int) -> frozenset[bytes]:
        """Digests of the keys that a user may use."""
        allowed = self._allowed.get(uid)
        if allowed is None:
            allowed = self._allowed[uid] = self._config.rules.keys_for(uid, self._cache.digests())
        return allowed

    def missed(self, uid: int) -> HsmdError:
        """The answer to a request for a key that is unknown or not granted, or that the user may not use.

        One text for all three, so that it does not reveal which keys exist.
        """
        self._outdated.set()
        if not self._cache.complete:
            return self._keys_unknown()
        client = self._config.client
        return RefusedHere(
            f"agent.toml does not allow user {uid} to use this key, or the daemon does not grant it to {client}; "
            "`hsmd agent check` shows which"
        )

    def refused(self, purpose: str) -> HsmdError:
        """The answer to a request for a known key that the daemon refused, without a reason."""
        self._outdated.set()
        return RefusedHere(f"the daemon does not grant {self._config.client} this key for {purpose}")

    # --- control requests ---

    async def control(self, uid: int, request: messages.Request) -> Any:
        """The result of a request about keys, from the cache if no daemon can be reached. Raises HsmdError."""
        if not request.agents:
            raise Refused  # without a detail, which would be logged for each request of any user
        if isinstance(request, messages.WhoAmI):
            return self._identity(uid)
        if isinstance(request, messages.HealthRead):
            return self._status.health(keys=_sees_all(uid))
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
        if isinstance(request, messages.CertificateChains):
            return self._chain_page(uid, request)
        raise InternalFault(detail=f"the agent does not carry out {request.op()}")

    def _identity(self, uid: int) -> messages.Identity:
        """Role and credential are the agent's own; `daemon` is the address of the daemon in use, empty if there is none."""
        connection = self._upstream.available
        endpoint = None if connection is None else connection.endpoint
        daemon = endpoint.address if isinstance(endpoint, Endpoint) else ""
        return messages.Identity(
            self._config.client,
            "agent",
            f"uid:{uid}",
            daemon,
            self._upstream.problems,
            self._notices(),
            warnings=[_CUT.format(self._config.client)] if self._status.cut else [],
            daemons=self._upstream.daemons,
        )

    def _notices(self) -> list[str]:
        """The declarations by which breaks of logs were accepted."""
        with contextlib.suppress(HsmdError):
            return [memory.accepted for memory in self._witness.memories.all() if memory.accepted]
        return []

    def _key_page(self, uid: int, request: messages.KeyList) -> messages.KeyPage:
        visible = self._names_for(uid)
        start = bisect_right(visible, request.after)
        names = visible[start : start + request.limit + 1]
        keys = [key.info for name in names[: request.limit] if (key := self._cache.get(name)) is not None]
        return messages.KeyPage(keys, len(names) > request.limit)

    def _names_for(self, uid: int) -> list[str]:
        names = self._seen.get(uid)
        if names is None:
            names = self._seen[uid] = [name for name in self._cache.names() if self._may_see(uid, name)]
        return names

    def _chain_page(self, uid: int, request: messages.CertificateChains) -> messages.ChainPage:
        page = ChainPageBuilder(MAX_RESULT_BYTES)
        for name in request.keys:
            key = self._cache.get(name) if self._may_see(uid, name) else None
            if not page.add(name, key.chain if key else "", key.info.certificate_mark if key else ""):
                break
        return page.page()

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

    async def update(self, name: str) -> None:
        """Ask the daemon for what may have changed about a key. Failures are logged."""
        if self._cache.get(name) is None:
            self._outdated.set()
        else:
            await self._update(name)

    async def _update(self, name: str) -> None:
        """Ask the daemon for one key, once for all users that ask for it meanwhile."""
        update = self._updates.get(name)
        if update is None:
            update = self._updates[name] = asyncio.create_task(self._fetch_one(name))
            update.add_done_callback(lambda _: self._updates.pop(name))
        await asyncio.shield(update)

    async def _fetch_one(self, name: str) -> None:
        connection = self._upstream.available
        if connection is None:
            return
        try:
            key, known = (
                await fetch_one(connection, name, self._cache.get, timeout_s=ASK_S),
                self._cache.get(name),
            )
            if known is not None and known.digest != key.digest:
                # The key that servers use now has another name: it must not be forgotten before that is known.
                await self.refresh()
                return
            changed = self._cache.put(key)
        except (NotFound, Refused):
            changed = self._cache.forget(name)
        except HsmdError as error:
            log.warning("cache.not_fetched", error=error.text)
            return
        if changed:
            self._forget_rights()

    def _may_see(self, uid: int, name: str) -> bool:
        """Public halves are shown to users of the key, and to root and the agent's own user."""
        if _sees_all(uid):
            return True
        key = self._cache.get(name)
        return self._config.rules.allow(uid, name if key is None else key.rule_name)


def _sees_all(uid: int) -> bool:
    return uid in (0, os.geteuid())
