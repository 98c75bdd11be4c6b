"""Handlers of control requests about tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.control.dispatcher import Handler
from hsmd.daemon.front.ledger.producers import stop_logins
from hsmd.daemon.front.tokens.login_guard import LoginGuard, Phase
from hsmd.daemon.front.tokens.pool import TokenPool
from hsmd.daemon.front.tokens.reconciliation import Differences
from hsmd.daemon.store import LoginStop, Transaction
from hsmd.errors import NotFound
from hsmd.protocol import messages
from hsmd.protocol.messages import Done, Request

MOST_NAMED = 1_000
"""Missing and unknown keys that an answer names of one token: with all of them it would not fit into a frame."""


_LOGINS = {
    Phase.WAITING: "waiting",
    Phase.FIRST: "trying",
    Phase.GOING: "allowed",
    Phase.STOPPED: "stopped",
}


class TokenHandlers:
    """Shows tokens, stops logins to them, and allows them again."""

    def __init__(
        self,
        *,
        cache: SnapshotCache,
        logins: LoginGuard,
        pools: Mapping[str, TokenPool],
        differences: Mapping[str, Differences],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cache = cache
        self._logins = logins
        self._pools = pools
        self._differences = differences
        self._now = now

    def handlers(self) -> dict[type[Request], Handler]:
        """The method that carries out each request."""
        return {
            messages.TokenList: self.list_tokens,
            messages.TokenClear: self.clear,
            messages.TokenStop: self.stop,
        }

    async def list_tokens(
        self, identity: Identity, request: messages.TokenList, deadline: float
    ) -> messages.TokenInfoList:
        return messages.TokenInfoList([self._info(pool) for pool in self._pools.values()])

    async def clear(self, identity: Identity, request: messages.TokenClear, deadline: float) -> Done:
        await self._cache.change(lambda tx: tx.logins.clear(request.name))
        self._logins.store_changed()
        return Done()

    async def stop(self, identity: Identity, request: messages.TokenStop, deadline: float) -> Done:
        if request.name not in self._pools:
            raise NotFound(f"there is no token {request.name!r}; `hsmd token list` shows the tokens")
        record = LoginStop(request.name, self._now(), f"operator {identity.client}", request.reason)

        def change(tx: Transaction) -> bool:
            stopped = any(stop.token == request.name for stop in tx.logins.stops())
            return not stopped and stop_logins(tx, record, tx.logins.clearances(request.name))

        changed = await self._cache.change(change)
        self._logins.store_changed()
        return Done(changed)

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
            logins=_LOGINS[self._logins.phase_of(status.name)],
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
