"""Handlers of control requests about grants."""

from __future__ import annotations

from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.control.dispatcher import Handler
from hsmd.daemon.store import GrantRecord
from hsmd.protocol import messages
from hsmd.protocol.messages import Request
from hsmd.purposes import Purpose, expand, labels, purpose_from_label


class GrantHandlers:
    """Adds, lists and removes grants, and explains decisions."""

    def __init__(self, *, cache: SnapshotCache) -> None:
        self._cache = cache

    def handlers(self) -> dict[type[Request], Handler]:
        """The method that carries out each request."""
        return {
            messages.GrantAdd: self.add,
            messages.GrantList: self.list,
            messages.GrantRemove: self.remove,
            messages.GrantExplain: self.explain,
        }

    async def add(
        self, identity: Identity, request: messages.GrantAdd, deadline: float
    ) -> messages.GrantInfo:
        purposes = expand(request.purposes)
        grant = await self._cache.change(lambda tx: tx.grants.add(request.client, request.key, purposes))
        return _grant(grant)

    async def list(
        self, identity: Identity, request: messages.GrantList, deadline: float
    ) -> messages.GrantPage:
        page = await self._cache.read(
            lambda tx: tx.grants.page(request.client, request.key, request.after, request.limit)
        )
        return messages.GrantPage(grants=[_grant(grant) for grant in page.items], more=page.more)

    async def remove(
        self, identity: Identity, request: messages.GrantRemove, deadline: float
    ) -> messages.Done:
        purposes = expand(request.purposes) if request.purposes else frozenset[Purpose]()
        changed = await self._cache.change(lambda tx: tx.grants.remove(request.client, request.key, purposes))
        return messages.Done(changed=changed)

    async def explain(
        self, identity: Identity, request: messages.GrantExplain, deadline: float
    ) -> messages.Explanation:
        purpose = purpose_from_label(request.purpose)
        explanation = self._cache.snapshot.explain(request.client, request.key, purpose)
        return messages.Explanation(allowed=explanation.allowed, rule=explanation.rule)


def _grant(grant: GrantRecord) -> messages.GrantInfo:
    return messages.GrantInfo(client=grant.client, key=grant.key, purposes=labels(grant.purposes))
