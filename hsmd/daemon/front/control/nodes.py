"""Handlers of control requests about nodes, and of those that nodes make."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.authorities.authority import aware_now
from hsmd.daemon.front.authorities.nodes import NodeIssuing
from hsmd.daemon.front.authorities.permits import check_permit, permit_of
from hsmd.daemon.front.control.dispatcher import Handler
from hsmd.daemon.store import PermitRecord, PermitUse, Transaction
from hsmd.protocol import messages
from hsmd.protocol.messages import Request
from hsmd.purposes import AuthorityConstraints
from hsmd.system.pages import fitting


class NodeHandlers:
    """Says what nodes get from authorities, and gives it to them."""

    def __init__(
        self, *, cache: SnapshotCache, nodes: NodeIssuing, now: Callable[[], datetime] = aware_now
    ) -> None:
        self._cache = cache
        self._nodes = nodes
        self._now = now

    def handlers(self) -> dict[type[Request], Handler]:
        """The method that carries out each request."""
        return {
            messages.CaAllow: self.allow,
            messages.CaDisallow: self.disallow,
            messages.CaAllowed: self.allowed,
            messages.NodeCertificate: self.certificate,
            messages.NodeTrust: self.trust,
        }

    async def allow(self, identity: Identity, request: messages.CaAllow, deadline: float) -> messages.Done:
        permit = permit_of(request, self._now())

        def put(tx: Transaction) -> bool:
            authority = tx.authorities.get(permit.authority)
            check_permit(permit, AuthorityConstraints.parse(authority.constraints))
            return tx.permits.put(permit)

        return messages.Done(await self._cache.change(put))

    async def disallow(
        self, identity: Identity, request: messages.CaDisallow, deadline: float
    ) -> messages.Done:
        changed = await self._cache.change(lambda tx: tx.permits.remove(request.authority, request.client))
        return messages.Done(changed)

    async def allowed(
        self, identity: Identity, request: messages.CaAllowed, deadline: float
    ) -> messages.NodePermitPage:
        now = self._now()

        def read(tx: Transaction) -> tuple[list[messages.NodePermit], bool]:
            page = tx.permits.page(request.authority, request.after, request.limit)
            return [
                _permit(each, tx.permits.use(each.authority, each.client, now)) for each in page.items
            ], page.more

        return messages.NodePermitPage(*fitting(*await self._cache.read(read)))

    async def certificate(
        self, identity: Identity, request: messages.NodeCertificate, deadline: float
    ) -> messages.NodeDocuments:
        issued, chain = await self._nodes.issue(identity, request, deadline)
        return messages.NodeDocuments(chain, issued.not_before, issued.not_after)

    async def trust(
        self, identity: Identity, request: messages.NodeTrust, deadline: float
    ) -> messages.NodeAnchors:
        return messages.NodeAnchors(*await self._nodes.trust(identity.client, request.authority))


def _permit(record: PermitRecord, use: PermitUse) -> messages.NodePermit:
    return messages.NodePermit(
        client=record.client,
        profile=record.profile,
        common_name=record.common_name,
        dns_names=list(record.dns_names),
        ip_addresses=list(record.ip_addresses),
        emails=list(record.emails),
        term_s=record.term_s,
        since=record.since,
        certificates=use.count,
        last_ends=use.last_ends,
    )
