"""Events about keys in the vault, appended in the transaction of what they tell; docs/events.md lists all kinds."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from hsmd.daemon.store.audience import WATCHING
from hsmd.daemon.store.event_rows import Events
from hsmd.daemon.store.records import Readers
from hsmd.daemon.store.tables import vault_allowed, vault_owners
from hsmd.daemon.store.vault_records import ManagementKeyRecord, VersionRecord
from hsmd.protocol.roles import Role


class VaultEvents:
    """What happens to keys in the vault, for their owners, those who may check them, operators and auditors."""

    def __init__(self, connection: Connection, events: Events) -> None:
        self._connection = connection
        self._events = events

    def registered(self, key: ManagementKeyRecord, now: datetime) -> None:
        """A management key waits for an operator's confirmation."""
        self._about_key("vault.registered", key, now)

    def confirmed(self, key: ManagementKeyRecord, now: datetime) -> None:
        """An operator has confirmed a management key."""
        self._about_key("vault.confirmed", key, now)

    def replaced(
        self, key: ManagementKeyRecord, previous: ManagementKeyRecord, now: datetime, *, finished: bool
    ) -> None:
        """A management key takes the place of the one before, whose deposits are wrapped anew; `finished`: all of them are."""
        self._about_key("vault.replaced", key, now, previous=previous.number, finished=finished)

    def held(self, keys: Iterable[ManagementKeyRecord], now: datetime) -> None:
        """A restore holds management keys, and what is sealed to them; once for each restore, which has begun an epoch."""
        epoch = self._events.head().epoch
        for key in keys:
            self._about_key("vault.held", key, now, dedup=f"{epoch} {key.owner_row}")

    def tell(self, kind: str, about: VersionRecord, now: datetime, **more: object) -> None:
        """Append an event about a version of a record, with further members of the payload."""
        payload: dict[str, Any] = {"version": about.version, "key": about.key.hex(), **more}
        subject = f"{about.owner}/{about.record}"
        self._events.append(kind, subject, readers=self._readers(about.owner_row), payload=payload, now=now)

    def _about_key(
        self, kind: str, key: ManagementKeyRecord, now: datetime, *, dedup: str = "", **more: object
    ) -> None:
        payload = {"number": key.number, "fingerprint": _fingerprint(key.digest), **more}
        readers = Readers(WATCHING, frozenset({key.owner_row}))
        self._events.append(kind, key.owner, readers=readers, payload=payload, now=now, dedup=dedup)

    def _readers(self, owner_row: int) -> Readers:
        """Operators, auditors, the owner, and the clients that the owner lets check."""
        named = select(vault_allowed.c.client_id).where(vault_allowed.c.owner_id == owner_row)
        every = select(vault_owners.c.checkers).where(vault_owners.c.owner_id == owner_row)
        roles = WATCHING | ({Role.CHECKER} if self._connection.scalar(every) else set())
        return Readers(frozenset(roles), frozenset({owner_row, *self._connection.scalars(named)}))


def _fingerprint(digest: bytes) -> str:
    """As owner and operator compare it: ManagementKeyStatement.fingerprint."""
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
