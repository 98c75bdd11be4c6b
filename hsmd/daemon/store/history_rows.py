"""Rows of the history of keys: owner and names of each key, also after its destruction; within one transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, func, insert, select, update

from hsmd.daemon.store.columns import chunks
from hsmd.daemon.store.records import KeyOwner, KeySpan, NameSpan, Page, PastKey
from hsmd.daemon.store.tables import clients, key_history, key_names, keys

IS_PRESENT: ColumnElement[bool] = and_(
    key_history.c.digest == keys.c.digest,
    key_history.c.made_at == keys.c.created_at,
    key_history.c.destroyed_at.is_(None),
)
"""Whether a row of the history is that of a key that is served."""
OWNER_COLUMNS = (
    key_history.c.owner_id.label("owner_id"),
    key_history.c.owner_name.label("owner_name"),
    clients.c.name.label("owner_now"),
)
"""What `owner_of` needs of a row; join `clients` by `key_history.owner_id`."""


class KeyHistory:
    """What is remembered of keys. Nothing here is ever removed or given to another owner.

    A daemon of an earlier release does not write here. `catch_up` notes what it changed.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def begin(self, digest: bytes, name: str, made_at: datetime, owner: Row[Any] | None = None) -> None:
        """Note a key that is served from now on; `owner` is the row of a client."""
        row = {
            "digest": digest,
            "owner_id": owner.id if owner else None,
            "owner_name": owner.name if owner else "",
            "made_at": made_at,
        }
        history_id = self._connection.scalar(insert(key_history).values(row).returning(key_history.c.id))
        self._name(int(history_id or 0), name, made_at)

    def rename(self, digest: bytes, new_name: str, now: datetime) -> None:
        """Note that the key that is served has another name."""
        for history_id in self._present(digest):
            self._end_name(history_id, now)
            self._name(history_id, new_name, now)

    def end(self, digest: bytes, now: datetime) -> None:
        """Note that the key is not served any more."""
        for history_id in self._present(digest):
            self._end(history_id, now)

    def _present(self, digest: bytes) -> list[int]:
        query = select(key_history.c.id).where(
            key_history.c.digest == digest, key_history.c.destroyed_at.is_(None)
        )
        return list(self._connection.scalars(query))

    def _end(self, history_id: int, now: datetime) -> None:
        row = update(key_history).where(key_history.c.id == history_id)
        self._connection.execute(row.values(destroyed_at=now))
        self._end_name(history_id, now)

    def _name(self, history_id: int, name: str, since: datetime) -> None:
        self._connection.execute(insert(key_names).values(history_id=history_id, name=name, since=since))

    def _end_name(self, history_id: int, now: datetime) -> None:
        present = (key_names.c.history_id == history_id) & key_names.c.until.is_(None)
        self._connection.execute(update(key_names).where(present).values(until=now))

    # --- what daemons of earlier releases changed ---

    @property
    def behind(self) -> bool:
        """Whether keys were made, renamed or destroyed without a note here."""
        return any(self._connection.execute(query.limit(1)).first() for query in _UNNOTED)

    def is_behind_of(self, key_ids: Sequence[int]) -> bool:
        """Whether keys with these row ids were made, renamed or destroyed without a note here.

        A key that is gone is known by its row id only; so one that is looks for any key that was destroyed without a note.
        """
        gone, renamed, new = _UNNOTED
        for chunk in chunks(sorted(key_ids)):
            ids = keys.c.id.in_(chunk)
            if any(self._connection.execute(query.where(ids).limit(1)).first() for query in (renamed, new)):
                return True
            present = self._connection.scalar(select(func.count()).select_from(keys).where(ids))
            if present != len(chunk) and self._connection.execute(gone.limit(1)).first():
                return True
        return False

    def catch_up(self, now: datetime) -> None:
        """Note such changes, as made now, or before another key got the same name."""
        gone, renamed, new = (self._connection.execute(query).all() for query in _UNNOTED)
        for row in gone:
            self._end(row.id, self._before_the_next(row.name, row.since, now))
        for row in renamed:
            self._end_name(row.id, self._before_the_next(row.name, row.since, now))
            self._name(row.id, row.new_name, now)
        for row in new:
            self.begin(bytes(row.digest), row.name, row.created_at)

    def _before_the_next(self, name: str, since: datetime, now: datetime) -> datetime:
        query = select(func.min(keys.c.created_at)).where(keys.c.name == name, keys.c.created_at > since)
        taken: datetime | None = self._connection.scalar(query)
        return min(now, taken) if taken else now

    # --- reading ---

    def page(self, after: int, limit: int, owner: str = "") -> Page[PastKey]:
        """At most `limit` keys that are not served any more, in the order in which they were made, after the number `after`.

        Of all, or only those that belong to the client with the name `owner`.
        """
        query: Select[Any] = (
            select(
                key_history.c.id,
                key_history.c.digest,
                key_history.c.made_at,
                key_history.c.destroyed_at,
                *OWNER_COLUMNS,
            )
            .outerjoin(clients, clients.c.id == key_history.c.owner_id)
            .where(key_history.c.id > after, key_history.c.destroyed_at.is_not(None))
            .order_by(key_history.c.id)
            .limit(limit + 1)
        )
        rows = self._connection.execute(query.where(clients.c.name == owner) if owner else query).all()
        names = self._names([row.id for row in rows])
        return Page.cut([_past_key(row, names[row.id]) for row in rows], limit)

    def spans_of_owner(self, client_id: int) -> tuple[list[KeySpan], list[NameSpan]]:
        """The keys that belong to a client, by digests and by names.

        A digest is its until the same key is served again, perhaps for another owner; and since its first life, without bound.
        """
        mine = select(key_history.c.digest).where(key_history.c.owner_id == client_id)
        lives: dict[bytes, list[Row[Any]]] = defaultdict(list)
        query = select(key_history).where(key_history.c.digest.in_(mine)).order_by(key_history.c.id)
        for row in self._connection.execute(query):
            lives[bytes(row.digest)].append(row)
        spans = [span for digest, rows in lives.items() for span in _spans(digest, rows, client_id)]
        named = (
            select(key_names)
            .join(key_history, key_history.c.id == key_names.c.history_id)
            .where(key_history.c.owner_id == client_id)
        )
        return spans, self._name_spans(named)

    def names_of_present(self, key_ids: Select[Any]) -> list[NameSpan]:
        """The names of keys that are served, given by their row ids."""
        query = (
            select(key_names)
            .join(key_history, key_history.c.id == key_names.c.history_id)
            .join(keys, IS_PRESENT)
            .where(keys.c.id.in_(key_ids))
        )
        return self._name_spans(query)

    def _name_spans(self, query: Select[Any]) -> list[NameSpan]:
        rows = self._connection.execute(query.order_by(key_names.c.id))
        return [NameSpan(row.name, row.since, row.until) for row in rows]

    def _names(self, history_ids: list[int]) -> dict[int, list[NameSpan]]:
        found: dict[int, list[NameSpan]] = defaultdict(list)
        query = select(key_names).where(key_names.c.history_id.in_(history_ids)).order_by(key_names.c.id)
        for row in self._connection.execute(query):
            found[row.history_id].append(NameSpan(row.name, row.since, row.until))
        return found


def owner_of(row: Row[Any]) -> KeyOwner | None:
    """The owner in a row with `OWNER_COLUMNS`."""
    if row.owner_id is None:
        return None
    return KeyOwner(row.owner_now or row.owner_name, removed=row.owner_now is None, row=row.owner_id)


def _past_key(row: Row[Any], names: Iterable[NameSpan]) -> PastKey:
    return PastKey(row.id, bytes(row.digest), owner_of(row), row.made_at, row.destroyed_at, tuple(names))


def _spans(digest: bytes, lives: list[Row[Any]], client_id: int) -> list[KeySpan]:
    """The times of the lives of a key that belong to a client; a time ends where the next life begins."""
    begins = [None, *(life.made_at for life in lives[1:])]
    ends = [*begins[1:], None]
    return [
        KeySpan(digest, begin, end)
        for life, begin, end in zip(lives, begins, ends, strict=True)
        if life.owner_id == client_id
    ]


_NAMED_NOW = and_(key_names.c.history_id == key_history.c.id, key_names.c.until.is_(None))
_UNNOTED = (
    # destroyed
    select(key_history.c.id, key_names.c.name, key_names.c.since)
    .join(key_names, _NAMED_NOW)
    .outerjoin(keys, and_(keys.c.digest == key_history.c.digest, keys.c.created_at == key_history.c.made_at))
    .where(key_history.c.destroyed_at.is_(None), keys.c.id.is_(None)),
    # renamed
    select(key_history.c.id, key_names.c.name, key_names.c.since, keys.c.name.label("new_name"))
    .join(key_names, _NAMED_NOW)
    .join(keys, IS_PRESENT)
    .where(key_names.c.name != keys.c.name),
    # made
    select(keys.c.digest, keys.c.name, keys.c.created_at)
    .outerjoin(key_history, IS_PRESENT)
    .where(key_history.c.id.is_(None)),
)
"""Queries for keys whose history lacks something."""
