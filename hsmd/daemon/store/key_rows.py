"""Rows of keys and of their purposes, within one transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, Select, delete, insert, select, update

from hsmd.algorithms import KeyType
from hsmd.daemon.store.client_rows import Clients
from hsmd.daemon.store.columns import chunks
from hsmd.daemon.store.history_rows import IS_PRESENT, OWNER_COLUMNS, KeyHistory, owner_of
from hsmd.daemon.store.lock_order import LockOrder
from hsmd.daemon.store.names import check_after, check_name, searchable, unknown
from hsmd.daemon.store.records import KeyRecord, Page
from hsmd.daemon.store.tables import clients, key_history, key_purposes, keys, limited_grants
from hsmd.daemon.store.use_counts import wait_for_uses
from hsmd.errors import Conflict, NotFound, StoreFailure
from hsmd.protocol.roles import Role
from hsmd.purposes import Purpose, check_ceiling

_FEW = 500
"""Digests that one query names."""
_LOOKED_AT = 1_000
"""Keys that are looked at together for a page of many keys, but not of all."""
_KEYS = (
    select(keys, *OWNER_COLUMNS)
    .outerjoin(key_history, IS_PRESENT)
    .outerjoin(clients, clients.c.id == key_history.c.owner_id)
)
_KNOWN_PURPOSES = frozenset(int(purpose) for purpose in Purpose)


class Keys:
    """The keys that the daemons serve."""

    def __init__(
        self, connection: Connection, client_rows: Clients, history: KeyHistory, order: LockOrder
    ) -> None:
        self._connection = connection
        self._order = order
        self._clients = client_rows
        self._history = history

    def add(self, key: KeyRecord) -> None:
        """Add a key, and remember its owner if it has one.

        Raises BadRequest for an invalid name or ceiling, Conflict if the name or the key exists already, or if the owner is
        not a client that can own keys.
        """
        check_name("name", key.name)
        owner = None if key.owner is None else self.check_owner(key.owner.name)
        check_ceiling(key.key_type, key.purposes)
        self.check_is_free(key.name)
        same_key = select(keys.c.name).where(keys.c.digest == key.digest)
        if present := self._connection.scalar(same_key):
            raise Conflict(f"this key is served already, under the name {present}")
        key_id = self._connection.scalar(insert(keys).values(_columns(key)).returning(keys.c.id))
        rows = [{"key_id": key_id, "purpose": int(purpose)} for purpose in sorted(key.purposes)]
        self._connection.execute(insert(key_purposes), rows)
        self._history.begin(key.digest, key.name, key.created_at, owner)

    def check_owner(self, client: str) -> Row[Any]:
        """The row of a client that can own keys. Raises Conflict."""
        try:
            row = self._clients.row(client)
        except NotFound as problem:
            raise Conflict(f"owner: {problem.text}") from None
        if Role.OWNER not in self._clients.roles_of(row):
            raise Conflict(
                f"owner: {client} does not have the role owner; give it with `hsmd client role add {client} owner`"
            )
        return row

    def get(self, name: str) -> KeyRecord:
        """The key of this name. Raises NotFound."""
        rows = self._connection.execute(_KEYS.where(keys.c.name == searchable(name))).all()
        if not rows:
            raise unknown("key", name)
        return self._records(rows)[0]

    def with_digest(self, digest: bytes) -> KeyRecord | None:
        """The key with this digest; None if there is none."""
        rows = self._connection.execute(_KEYS.where(keys.c.digest == digest)).all()
        return self._records(rows)[0] if rows else None

    def find_id(self, name: str) -> int:
        """The row id of a key. Raises NotFound."""
        query = select(keys.c.id).where(keys.c.name == searchable(name))
        key_id: int | None = self._connection.scalar(query)
        if key_id is None:
            raise unknown("key", name)
        return key_id

    def page(self, after: str, limit: int, digests: Collection[bytes] | None = None) -> Page[KeyRecord]:
        """At most `limit` keys in order of name, following `after` ("" for the first page).

        All keys, or only those with these digests. Raises BadRequest for an invalid `after`.
        """
        query = _KEYS.where(keys.c.name > check_after(after)).order_by(keys.c.name).limit(limit + 1)
        if digests is None:
            rows = self._connection.execute(query).all()
        elif len(digests) <= _FEW:
            rows = self._connection.execute(query.where(keys.c.digest.in_(digests))).all()
        else:
            rows = self._some_of_all(after, limit + 1, digests)
        return Page.cut(self._records(rows), limit)

    def _some_of_all(self, after: str, limit: int, digests: Collection[bytes]) -> list[Row[Any]]:
        """The next keys with these digests, which are too many for one query: found among all, which are gone through once."""
        wanted = frozenset(digests)
        query = select(keys.c.id, keys.c.name, keys.c.digest).order_by(keys.c.name).limit(_LOOKED_AT)
        ids: list[int] = []
        some = self._connection.execute(query.where(keys.c.name > after)).all()
        while some and len(ids) < limit:
            ids += (row.id for row in some if bytes(row.digest) in wanted)
            some = self._connection.execute(query.where(keys.c.name > some[-1].name)).all()
        chosen = _KEYS.where(keys.c.id.in_(ids[:limit])).order_by(keys.c.name)
        return list(self._connection.execute(chosen).all())

    def all(self) -> list[KeyRecord]:
        """All keys in order of name."""
        ceilings = self._ceilings(select(key_purposes))
        rows = self._connection.execute(_KEYS.order_by(keys.c.name))
        return [_record(row, ceilings[row.id]) for row in rows]

    def of_rows(self, key_ids: Sequence[int]) -> list[KeyRecord]:
        """The keys with these row ids, of at most a chunk; those that are gone are left out."""
        return self._records(self._connection.execute(_KEYS.where(keys.c.id.in_(key_ids))).all())

    def remove(self, name: str, now: datetime | None = None) -> None:
        """Remove a key with its certificate, grants and readers; its history stays. Raises NotFound."""
        key_id = self.find_id(name)
        wait_for_uses(self._connection, self._order, limited_grants.c.key_id == key_id)
        removed = delete(keys).where(keys.c.id == key_id).returning(keys.c.digest)
        digest = self._connection.execute(removed).scalar_one()
        self._history.end(bytes(digest), now or datetime.now(UTC))

    def rename(self, name: str, new_name: str, now: datetime | None = None) -> None:
        """Rename a key; certificate, grants, owner and readers stay with it.

        Raises NotFound, BadRequest for an invalid new name, Conflict if it is taken.
        """
        key_id = self.find_id(name)
        check_name("new_name", new_name)
        self.check_is_free(new_name)
        renamed = update(keys).where(keys.c.id == key_id).values(name=new_name).returning(keys.c.digest)
        digest = bytes(self._connection.execute(renamed).scalar_one())
        self._history.rename(digest, new_name, now or datetime.now(UTC))

    def check_is_free(self, name: str) -> None:
        """Raise Conflict if there is a key of this name."""
        if self._connection.scalar(select(keys.c.id).where(keys.c.name == name)) is not None:
            raise Conflict(f"a key named {name} exists already; choose another name")

    def _records(self, rows: Sequence[Row[Any]]) -> list[KeyRecord]:
        ceilings: dict[int, set[Purpose]] = defaultdict(set)
        for chunk in chunks([row.id for row in rows]):
            ceilings.update(self._ceilings(select(key_purposes).where(key_purposes.c.key_id.in_(chunk))))
        return [_record(row, ceilings[row.id]) for row in rows]

    def _ceilings(self, query: Select[Any]) -> dict[int, set[Purpose]]:
        ceilings: dict[int, set[Purpose]] = defaultdict(set)
        for key_id, code in self._connection.execute(query):
            if (purpose := known_purpose(code)) is not None:
                ceilings[key_id].add(purpose)
        return ceilings


def known_purpose(code: int) -> Purpose | None:
    """The purpose of a stored code; None for one of a newer release, which is not served."""
    return Purpose(code) if code in _KNOWN_PURPOSES else None


def _columns(key: KeyRecord) -> dict[str, Any]:
    return {
        "name": key.name,
        "key_type": key.key_type.value,
        "digest": key.digest,
        "public_key": key.public_key,
        "token": key.token,
        "created_at": key.created_at,
        "warnings": msgspec.json.encode(key.warnings).decode(),
    }


def _record(row: Row[Any], purposes: set[Purpose]) -> KeyRecord:
    try:
        key_type = KeyType(row.key_type)
        warnings = msgspec.json.decode(row.warnings, type=tuple[str, ...])
    except (ValueError, msgspec.MsgspecError):
        raise StoreFailure(
            "the store is damaged or newer than this release", detail=f"key row {row.id}"
        ) from None
    return KeyRecord(
        name=row.name,
        key_type=key_type,
        digest=bytes(row.digest),
        public_key=bytes(row.public_key),
        purposes=frozenset(purposes),
        token=row.token,
        created_at=row.created_at,
        warnings=warnings,
        owner=owner_of(row),
        row=row.id,
    )
