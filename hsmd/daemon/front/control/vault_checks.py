"""Handlers of control requests about checks of public keys, and about who may make them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.control.dispatcher import Handler
from hsmd.daemon.front.vault.checks import Checks
from hsmd.daemon.front.vault.proofs import Proofs
from hsmd.daemon.store import CheckSum
from hsmd.errors import BadRequest, Overloaded
from hsmd.protocol import messages
from hsmd.protocol.messages import Request


class VaultCheckHandlers:
    """Answers checks, and changes and lists who may make them."""

    def __init__(
        self,
        *,
        cache: SnapshotCache,
        proofs: Proofs,
        checks: Checks,
        overloaded: Callable[[], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`overloaded` is called when a check is refused because there are too many."""
        self._overloaded = overloaded
        self._cache = cache
        self._proofs = proofs
        self._checks = checks
        self._now = now

    def handlers(self) -> dict[type[Request], Handler]:
        """The method that carries out each request."""
        return {
            messages.VaultAllow: self.allow,
            messages.VaultDisallow: self.disallow,
            messages.VaultAllowed: self.allowed,
            messages.VaultCheck: self.check,
            messages.VaultChecks: self.sums,
        }

    async def allow(self, identity: Identity, request: messages.VaultAllow, deadline: float) -> messages.Done:
        _check_named(request)
        await self._proofs.check(identity, request, request.proof)
        now = self._now()
        return messages.Done(
            changed=await self._cache.change_unversioned(
                lambda tx: (
                    tx.vault_checkers.allow_role(identity.client, allowed=True)
                    if request.checkers
                    else tx.vault_checkers.allow(identity.client, request.client, now)
                )
            )
        )

    async def disallow(
        self, identity: Identity, request: messages.VaultDisallow, deadline: float
    ) -> messages.Done:
        _check_named(request)
        await self._proofs.check(identity, request, request.proof)
        return messages.Done(
            changed=await self._cache.change_unversioned(
                lambda tx: (
                    tx.vault_checkers.allow_role(identity.client, allowed=False)
                    if request.checkers
                    else tx.vault_checkers.disallow(identity.client, request.client)
                )
            )
        )

    async def allowed(
        self, identity: Identity, request: messages.VaultAllowed, deadline: float
    ) -> messages.VaultAllowedList:
        found = await self._cache.read(lambda tx: tx.vault_checkers.allowed(identity.client))
        return messages.VaultAllowedList(list(found.clients), found.checkers)

    async def check(
        self, identity: Identity, request: messages.VaultCheck, deadline: float
    ) -> messages.VaultChecked:
        try:
            return messages.VaultChecked(await self._checks.check(identity, request, deadline))
        except Overloaded:
            self._overloaded()
            raise

    async def sums(
        self, identity: Identity, request: messages.VaultChecks, deadline: float
    ) -> messages.VaultCheckPage:
        after = _position(request.after)
        page = await self._cache.read(
            lambda tx: tx.vault_check_sums.page(identity.client, after, request.limit)
        )
        cursor = str(page.items[-1].row) if page.items else request.after
        return messages.VaultCheckPage([_sum(each) for each in page.items], cursor, page.more)


def _check_named(request: messages.VaultAllow | messages.VaultDisallow) -> None:
    if bool(request.client) == request.checkers:
        raise BadRequest("client: name one client, or `checkers`")


def _position(cursor: str) -> int:
    if not cursor:
        return 0
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 15):
        raise BadRequest("after: not the `cursor` of an earlier page")
    return int(cursor)


def _sum(each: CheckSum) -> messages.VaultCheckSum:
    return messages.VaultCheckSum(each.asker, each.record, each.verdict, each.day, each.count, each.last_at)
