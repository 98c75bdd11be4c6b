"""Handlers of control requests about management keys."""

from __future__ import annotations

from collections.abc import Callable

from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.control.dispatcher import Handler
from hsmd.daemon.front.vault.challenger import Challenger
from hsmd.daemon.front.vault.management_keys import ManagementKeys, fingerprint_of
from hsmd.daemon.store import ManagementKeyRecord
from hsmd.errors import BadRequest
from hsmd.protocol import messages
from hsmd.protocol.messages import Request
from hsmd.protocol.roles import Role
from hsmd.system.pages import fitting


class VaultKeyHandlers:
    """Gives challenges out, and registers, confirms and lists management keys."""

    def __init__(self, *, challenger: Challenger, keys: ManagementKeys, changed: Callable[[], None]) -> None:
        """`changed` is called when a key was registered or confirmed, which has appended an event."""
        self._challenger = challenger
        self._keys = keys
        self._changed = changed

    def handlers(self) -> dict[type[Request], Handler]:
        """The method that carries out each request."""
        return {
            messages.VaultChallenge: self.challenge,
            messages.VaultRegister: self.register,
            messages.VaultConfirm: self.confirm,
            messages.VaultKeys: self.list,
        }

    async def challenge(
        self, identity: Identity, request: messages.VaultChallenge, deadline: float
    ) -> messages.VaultChallenged:
        return await self._challenger.challenge(identity, request)

    async def register(
        self, identity: Identity, request: messages.VaultRegister, deadline: float
    ) -> messages.VaultRegistered:
        key = await self._keys.register(identity, request)
        self._changed()
        return registered(key)

    async def confirm(
        self, identity: Identity, request: messages.VaultConfirm, deadline: float
    ) -> messages.Done:
        changed = await self._keys.confirm(identity, request, deadline)
        self._changed()
        return messages.Done(changed=changed)

    async def list(
        self, identity: Identity, request: messages.VaultKeys, deadline: float
    ) -> messages.ManagementKeyList:
        owner = request.owner or identity.client
        if owner != identity.client and not identity.roles & {Role.OPERATOR, Role.AUDITOR}:
            raise BadRequest("owner: only operators and auditors list the management keys of others")
        page = await self._keys.page(owner, request.before, request.limit)
        return messages.ManagementKeyList(*fitting([_info(key) for key in page.items], page.more))


def registered(key: ManagementKeyRecord) -> messages.VaultRegistered:
    """The answer to a registration."""
    return messages.VaultRegistered(key.state.value, fingerprint_of(key))


def _info(key: ManagementKeyRecord) -> messages.ManagementKeyInfo:
    return messages.ManagementKeyInfo(
        number=key.number,
        state=key.state.value,
        fingerprint=fingerprint_of(key),
        text=key.text,
        signature=key.signature,
        succession=key.succession,
        confirmation=key.confirmation,
        created_at=key.created_at,
        deposits=key.deposits,
        held=key.held,
    )
