"""Handlers of control requests about tokens."""

from __future__ import annotations

from collections.abc import Mapping

from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.control.dispatcher import Handler
from hsmd.daemon.front.tokens.login_guard import LoginGuard
from hsmd.daemon.front.tokens.pool import TokenPool
from hsmd.daemon.front.tokens.reconciliation import Differences
from hsmd.protocol import messages
from hsmd.protocol.messages import Done, Request

MOST_NAMED = 1_000
"""Missing and unknown keys that an answer names of one token: with all of them it would not fit into a frame."""


class TokenHandlers:
    """Shows tokens, and allows logins again after a refused PIN."""

    def __init__(
        self,
        *,
        cache: SnapshotCache,
        logins: LoginGuard,
        pools: Mapping[str, TokenPool],
        differences: Mapping[str, Differences],
    ) -> None:
        self._cache = cache
        self._logins = logins
        self._pools = pools
        self._differences = differences

    def handlers(self) -> dict[type[Request], Handler]:
        """The method that carries out each request."""
        return {messages.TokenList: self.list_tokens, messages.TokenClear: self.clear}

    async def list_tokens(
        self, identity: Identity, request: messages.TokenList, deadline: float
    ) -> messages.TokenInfoList:
        return messages.TokenInfoList([self._info(pool) for pool in self._pools.values()])

    async def clear(self, identity: Identity, request: messages.TokenClear, deadline: float) -> Done:
        await self._cache.change(lambda tx: tx.logins.clear(request.name))
        self._logins.store_changed()
        return Done()

    def _info(self, pool: TokenPool) -> messages.TokenInfo:
        status = pool.status()
        info = messages.TokenInfo(
            status.name,
            status.state,
            status.breaker,
            status.reason,
            abilities=status.abilities,
            wrapping=status.wrapping,
            write_protected=status.write_protected,
            serial=status.serial,
        )
        stop = self._logins.stop_of(status.name)
        if stop is not None:
            info.stopped_at, info.stopped_by, info.stop_reason = stop.at, stop.by, stop.reason
        found = self._differences.get(status.name)
        if found is not None:
            info.missing, info.missing_count = list(found.missing[:MOST_NAMED]), len(found.missing)
            info.unknown, info.unknown_count = list(found.unknown[:MOST_NAMED]), len(found.unknown)
            info.compared_at = found.at
            info.not_served = [messages.KeyProblem(*each) for each in found.not_served]
        return info
