"""Handlers of control requests about grants."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta

from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.rules import Explanation, Rule
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.control.dispatcher import Handler
from hsmd.daemon.store import GrantRecord, LimitedGrantRecord, Limits, Page, Transaction
from hsmd.errors import BadRequest, NotFound
from hsmd.protocol import messages
from hsmd.protocol.messages import Request
from hsmd.purposes import AllowedNames, Purpose, expand, labels, purpose_from_label
from hsmd.system.pages import fitting

RECORDED_WITHIN = timedelta(minutes=1)
"""A daemon that runs has its uses in its log by then, and the store has forgotten them."""


class GrantHandlers:
    """Adds, lists and removes grants, and explains decisions."""

    def __init__(
        self, *, cache: SnapshotCache, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._cache = cache
        self._now = now

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
        constraints = AllowedNames.of(request.names).to_json() if request.names else ""
        limits = Limits(request.not_after, request.max_uses, request.request, constraints)

        def change(tx: Transaction) -> tuple[GrantRecord, dict[int, int]]:
            if limits == Limits():
                tx.grants.add(request.client, request.key, purposes)
            else:
                tx.limited_grants.add(request.client, request.key, purposes, limits, self._now())
            grant = tx.grants.get(request.client, request.key)
            return grant, self._unrecorded(tx, grant.limited)

        return _grant(*await self._cache.change(change))

    async def list(
        self, identity: Identity, request: messages.GrantList, deadline: float
    ) -> messages.GrantPage:
        def read(tx: Transaction) -> tuple[Page[GrantRecord], dict[int, int]]:
            page = tx.grants.page(request.client, request.key, request.after, request.limit)
            return page, self._unrecorded(tx, (each for grant in page.items for each in grant.limited))

        page, unrecorded = await self._cache.read(read)
        return messages.GrantPage(*fitting([_grant(grant, unrecorded) for grant in page.items], page.more))

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
        now = self._now()
        explanation = self._cache.snapshot.explain(request.client, request.key, purpose, now)
        limited, unrecorded = await self._limited(request, purpose)
        if explanation.allowed and limited is not None and limited.left == 0:
            explanation = Explanation.of(Rule.GRANT_HELD if limited.held else Rule.GRANT_EXHAUSTED)
        return messages.Explanation(
            allowed=explanation.allowed,
            rule=explanation.rule,
            limit=None if limited is None else _limit(limited, unrecorded),
        )

    async def _limited(
        self, request: messages.GrantExplain, purpose: Purpose
    ) -> tuple[LimitedGrantRecord | None, dict[int, int]]:
        """The limited grant, if there is one, and how many of its uses are in no log."""

        def read(tx: Transaction) -> tuple[LimitedGrantRecord | None, dict[int, int]]:
            grants = tx.limited_grants.of(request.client, request.key)
            found = [grant for grant in grants if grant.purpose is purpose]
            return (found[0], self._unrecorded(tx, found)) if found else (None, {})

        try:
            return await self._cache.read(read)
        except NotFound:
            return None, {}

    def _unrecorded(self, tx: Transaction, grants: Iterable[LimitedGrantRecord]) -> dict[int, int]:
        """How many uses of these grants are in no log although there was time enough."""
        ids = [grant.id for grant in grants]
        return tx.counted_uses.left_over(ids, self._now() - RECORDED_WITHIN) if ids else {}


def _grant(grant: GrantRecord, unrecorded: Mapping[int, int]) -> messages.GrantInfo:
    limited = {each.purpose for each in grant.limited}
    return messages.GrantInfo(
        client=grant.client,
        key=grant.key,
        purposes=labels(grant.purposes | limited),
        limits=[_limit(each, unrecorded) for each in grant.limited],
    )


def _limit(grant: LimitedGrantRecord, unrecorded: Mapping[int, int]) -> messages.GrantLimit:
    limits = grant.limits
    return messages.GrantLimit(
        id=grant.id,
        purpose=grant.purpose.label,
        uses=grant.used,
        not_after=limits.not_after,
        max_uses=limits.max_uses,
        left=grant.left,
        held=grant.held and limits.max_uses is not None,
        request=limits.request,
        names=_names(limits.constraints),
        unrecorded=unrecorded.get(grant.id, 0),
    )


def _names(constraints: str) -> list[str]:
    """The allowed names; the text itself if a later release wrote it."""
    if not constraints:
        return []
    try:
        return sorted(AllowedNames.parse(constraints).names)
    except BadRequest:
        return [constraints]
