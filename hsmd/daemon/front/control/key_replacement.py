"""Handlers of control requests that replace a key: a new key takes over its name, in steps that can be repeated and undone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmd.daemon import pki
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.index import OF_THE_DAEMON
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.control.dispatcher import Handler
from hsmd.daemon.front.control.keys import KeyHandlers
from hsmd.daemon.front.ledger.producers import certificate_replaced
from hsmd.daemon.store import KeyRecord, Transaction
from hsmd.daemon.store.records import ReplacementRecord
from hsmd.errors import Conflict
from hsmd.protocol import messages
from hsmd.protocol.messages import Request
from hsmd.purposes import labels
from hsmd.system.client_threads import in_thread


class KeyReplacementHandlers:
    """Makes the new key, switches to it and back. Each switch is one transaction of the store."""

    def __init__(
        self,
        *,
        cache: SnapshotCache,
        keys: KeyHandlers,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cache = cache
        self._keys = keys
        self._now = now

    def handlers(self) -> dict[type[Request], Handler]:
        """The method that carries out each request."""
        return {
            messages.KeyReplace: self.begin,
            messages.KeyReplaceSwitch: self.switch,
            messages.KeyReplaceBack: self.switch_back,
        }

    async def begin(
        self, identity: Identity, request: messages.KeyReplace, deadline: float
    ) -> messages.KeyReplaced:
        def read(tx: Transaction) -> tuple[KeyRecord, ReplacementRecord | None, str]:
            return (
                tx.keys.get(request.name),
                tx.replacements.of(request.name),
                tx.replacements.name_of_successor(request.name),
            )

        key, replacement, successor = await self._cache.read(read)
        if replacement is None:
            await self._make(key, successor, deadline)
        elif replacement.switched_at is not None:
            raise Conflict(
                f"{replacement.successor} has taken over the name of {replacement.key}, which is still there; end that"
                f" replacement first: hsmd key replace {replacement.successor} --finish"
            )
        elif replacement.key != request.name:
            raise Conflict(
                f"{request.name} is itself the new key that is to take over the name {replacement.key}"
            )
        return await self._result(request.name)

    async def _make(self, key: KeyRecord, successor: str, deadline: float) -> None:
        if not key.purposes.isdisjoint(OF_THE_DAEMON):
            raise Conflict(f"{key.name} is a key of the daemon itself, which is not replaced like this")
        owner = key.owner.name if key.owner is not None and not key.owner.removed else ""
        generate = messages.KeyGenerate(
            name=successor,
            key_type=key.key_type.value,
            purposes=labels(key.purposes),
            token=key.token,
            owner=owner,
        )
        now = self._now()
        await self._keys.make(
            generate, deadline, also=lambda tx: tx.replacements.begin(key.name, key.digest, successor, now)
        )

    async def switch(
        self, identity: Identity, request: messages.KeyReplaceSwitch, deadline: float
    ) -> messages.KeyReplaced:
        def read(tx: Transaction) -> tuple[KeyRecord, ReplacementRecord | None, str]:
            replacement = tx.replacements.of(request.name)
            stored = tx.certificates.of([request.name])
            new = tx.keys.get(replacement.successor if replacement is not None else request.name)
            return new, replacement, stored[0].chain_pem if stored else ""

        successor, replacement, previous = await self._cache.read(read)
        if replacement is None:
            raise Conflict(
                f"the key {request.name} is not being replaced; begin with `hsmd key replace {request.name}`"
            )
        now = self._now()
        facts = await in_thread(
            pki.check_chain,
            request.chain,
            load_der_public_key(successor.public_key),
            now,
            purposes=successor.purposes,
            previous=previous,
        )
        if not request.force:
            facts.refuse_faults(f"hsmd key replace {request.name} --certificate CHAIN --force")

        def switch(tx: Transaction) -> list[str]:
            if tx.keys.get(replacement.successor).digest != successor.digest:
                raise Conflict(f"the key {replacement.successor} is another one now; try again")
            _, notes = tx.replacements.switch(request.name, now)
            tx.certificates.set(request.name, facts.chain_pem, facts.not_after, facts.not_before)
            certificate_replaced(tx, request.name, previous, now)
            return notes

        if replacement.switched_at is not None and replacement.successor == request.name:
            return await self._repeated(request.name, facts.chain_pem)
        notes = await self._cache.change(switch)
        return await self._result(request.name, [*facts.faults, *facts.warnings, *notes])

    async def _repeated(self, name: str, chain_pem: str) -> messages.KeyReplaced:
        """The answer to a request that was carried out already, and whose first answer was lost. Raises Conflict for others."""
        stored = await self._cache.read(lambda tx: tx.certificates.get(name))
        if stored.chain_pem != chain_pem:
            raise Conflict(
                f"the new key has the name {name} already; store another certificate for it with `hsmd cert import {name}`"
            )
        return await self._result(name)

    async def switch_back(
        self, identity: Identity, request: messages.KeyReplaceBack, deadline: float
    ) -> messages.KeyReplaced:
        now = self._now()

        def switch_back(tx: Transaction) -> None:
            previous = tx.certificates.get(request.name).chain_pem
            tx.replacements.switch_back(request.name, now)
            if tx.certificates.of([request.name]):
                certificate_replaced(tx, request.name, previous, now)

        await self._cache.change(switch_back)
        return await self._result(request.name)

    async def _result(self, name: str, warnings: list[str] | None = None) -> messages.KeyReplaced:
        def read(tx: Transaction) -> tuple[KeyRecord, KeyRecord, ReplacementRecord]:
            replacement = tx.replacements.of(name)
            if replacement is None:
                raise Conflict(f"the replacement of {name} was ended meanwhile")
            other = replacement.successor if replacement.key == name else replacement.key
            return tx.keys.get(name), tx.keys.get(other), replacement

        key, other, replacement = await self._cache.read(read)
        return messages.KeyReplaced(
            self._keys.info(key, replacement), self._keys.info(other, replacement), warnings or []
        )
