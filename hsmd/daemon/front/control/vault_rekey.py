"""Handlers of control requests that replace a management key."""

from __future__ import annotations

from collections.abc import Callable

from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.control.dispatcher import Handler
from hsmd.daemon.front.control.vault_keys import registered
from hsmd.daemon.front.vault.deposits import Deposits
from hsmd.daemon.front.vault.management_keys import ManagementKeys
from hsmd.protocol import messages
from hsmd.protocol.messages import Request
from hsmd.system.pages import fitting


class VaultRekeyHandlers:
    """Begins and ends the replacement of a management key, and stores what was wrapped anew."""

    def __init__(self, *, keys: ManagementKeys, deposits: Deposits, changed: Callable[[], None]) -> None:
        """`changed` is called when a replacement was begun or finished, which has appended an event."""
        self._keys = keys
        self._deposits = deposits
        self._changed = changed

    def handlers(self) -> dict[type[Request], Handler]:
        """The method that carries out each request."""
        return {
            messages.VaultRekeyBegin: self.begin,
            messages.VaultRekeyList: self.list,
            messages.VaultRekeyWrap: self.wrap,
            messages.VaultRekeyFinish: self.finish,
        }

    async def begin(
        self, identity: Identity, request: messages.VaultRekeyBegin, deadline: float
    ) -> messages.VaultRegistered:
        key = await self._keys.begin(identity, request)
        self._changed()
        return registered(key)

    async def list(
        self, identity: Identity, request: messages.VaultRekeyList, deadline: float
    ) -> messages.VaultRekeyPage:
        page = await self._keys.still_sealed(identity, request)
        items = [
            messages.VaultSealed(version.record, version.version, envelope, text, signature)
            for version, envelope, text, signature in page.items
        ]
        return messages.VaultRekeyPage(*fitting(items, page.more))

    async def wrap(
        self, identity: Identity, request: messages.VaultRekeyWrap, deadline: float
    ) -> messages.Done:
        await self._deposits.rewrap(identity, request)
        return messages.Done()

    async def finish(
        self, identity: Identity, request: messages.VaultRekeyFinish, deadline: float
    ) -> messages.Done:
        await self._keys.finish(identity, request)
        self._changed()
        return messages.Done()
