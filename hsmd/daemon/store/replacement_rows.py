"""Rows of replacements of keys: a new key takes over the name of an old one, with grants and readers; in one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, exists, insert, literal, or_, select, update

from hsmd.daemon.store.columns import chunks
from hsmd.daemon.store.key_rows import Keys
from hsmd.daemon.store.limited_grant_rows import LimitedGrants
from hsmd.daemon.store.records import LimitedGrantRecord, Limits, ReplacementRecord
from hsmd.daemon.store.served_rows import ServedCertificates
from hsmd.daemon.store.tables import (
    grants,
    key_owners,
    key_purposes,
    key_replacements,
    keys,
    limited_grants,
)
from hsmd.errors import Conflict, NotFound

LONGEST_NAME = 64
NEXT, REPLACED = ".next", ".replaced-{:%Y-%m-%d}"

_OLD, _NEW = keys.alias("old_keys"), keys.alias("new_keys")
_REPLACEMENTS = (
    select(key_replacements, _OLD.c.name.label("name"), _NEW.c.name.label("successor"))
    .join(_OLD, _OLD.c.id == key_replacements.c.key_id)
    .join(_NEW, _NEW.c.id == key_replacements.c.successor_id)
)


class Replacements:
    """Begins a replacement, switches to the new key, and back. It ends when one of the two keys is destroyed."""

    def __init__(
        self, connection: Connection, key_rows: Keys, limited: LimitedGrants, served: ServedCertificates
    ) -> None:
        self._connection = connection
        self._keys = key_rows
        self._limited = limited
        self._served = served

    def of_keys(self, key_ids: Sequence[int]) -> dict[int, ReplacementRecord]:
        """The replacements in which these keys are the old or the new one, by the row id of the key."""
        found: dict[int, ReplacementRecord] = {}
        for chunk in chunks(list(key_ids)):
            wanted = set(chunk)
            either = or_(key_replacements.c.key_id.in_(chunk), key_replacements.c.successor_id.in_(chunk))
            for row in self._connection.execute(_REPLACEMENTS.where(either)):
                for key_id in {row.key_id, row.successor_id} & wanted:
                    found[key_id] = _record(row)
        return found

    def of(self, name: str) -> ReplacementRecord | None:
        """The replacement in which the key of this name is the old or the new one. Raises NotFound for an unknown key."""
        key_id = self._keys.find_id(name)
        return self.of_keys([key_id]).get(key_id)

    def name_of_successor(self, name: str) -> str:
        """A free name for the key that is to take over this name."""
        return self._free(name, NEXT)

    def begin(self, name: str, digest: bytes, successor: str, now: datetime) -> None:
        """Note that the key `successor` is to take over the name of the other, which has this digest. Raises Conflict.

        Another key that has the name by now may have another owner and other purposes than those of the new one.
        """
        try:
            key_id = self._keys.find_id(name)
            is_same = self._keys.get(name).digest == digest
        except NotFound:
            is_same = False
        if not is_same:
            raise Conflict(f"the key {name} was removed or renamed meanwhile")
        if key_id in self.of_keys([key_id]):
            raise Conflict(f"a replacement of {name} has begun meanwhile; try again")
        row = {"key_id": key_id, "successor_id": self._keys.find_id(successor), "begun_at": now}
        self._connection.execute(insert(key_replacements).values(row))

    def switch(self, name: str, now: datetime) -> tuple[str, list[str]]:
        """Give the name to the new key, with the grants and readers of the old one, which keeps them under another name.

        Of a limited grant the new key gets what is left. Returns the other name, and what was not copied or is to be known, in
        words. Raises Conflict if there is no replacement to switch.
        """
        row = self._row(name)
        if row.switched_at is not None or row.name != name:
            raise Conflict(f"there is no new key that waits to take over the name {name}")
        self._lock(row)
        kept = self._free(name, REPLACED.format(now))
        self._keys.rename(name, kept, now)
        self._keys.rename(row.successor, name, now)
        self._copy_grants(row.key_id, row.successor_id)
        self._copy_readers(row.key_id, row.successor_id)
        notes = list(self._copy_limited_grants(row.key_id, row.successor_id, name, now))
        self._note_switch(row, now)
        return kept, notes

    def switch_back(self, name: str, now: datetime) -> str:
        """Give the name back to the old key; the new one keeps its grants under the name that is returned. Raises Conflict."""
        row = self._row(name)
        if row.switched_at is None or row.successor != name:
            raise Conflict(f"no key has taken over the name {name}")
        self._lock(row)
        successor = self._free(name, NEXT)
        self._keys.rename(name, successor, now)
        self._keys.rename(row.name, name, now)
        self._note_switch(row, None)
        return successor

    def _row(self, name: str) -> Row[Any]:
        key_id = self._keys.find_id(name)
        either = or_(key_replacements.c.key_id == key_id, key_replacements.c.successor_id == key_id)
        row = self._connection.execute(_REPLACEMENTS.where(either)).one_or_none()
        if row is None:
            raise Conflict(f"the key {name} is not being replaced; begin with `hsmd key replace {name}`")
        return row

    def _lock(self, row: Row[Any]) -> None:
        """Lock both keys in the order in which a report of a front end locks them (served_rows.py)."""
        both = keys.c.id.in_([row.key_id, row.successor_id])
        self._connection.execute(select(keys.c.id).where(both).order_by(keys.c.id).with_for_update()).all()

    def _note_switch(self, row: Row[Any], at: datetime | None) -> None:
        switched = update(key_replacements).where(key_replacements.c.key_id == row.key_id)
        self._connection.execute(switched.values(switched_at=at))
        self._served.forget_older([row.key_id, row.successor_id])

    def _free(self, name: str, suffix: str) -> str:
        """The name with the suffix, cut so that it fits, and with a number if that is taken."""
        for number in range(1, 1000):
            end = suffix if number == 1 else f"{suffix}-{number}"
            found = name[: LONGEST_NAME - len(end)] + end
            taken = select(keys.c.id).where(keys.c.name == found)
            if self._connection.scalar(taken) is None:
                return found
        raise Conflict(f"there are too many keys called {name}{suffix}; destroy those that are not used")

    def _copy_grants(self, old: int, new: int) -> None:
        """A grant that the new key has already, limited or not, stays as it is."""
        held = grants.alias("held")
        limited = limited_grants.alias("limited_held")
        ceiling = select(key_purposes.c.purpose).where(key_purposes.c.key_id == new)
        missing = select(grants.c.client_id, literal(new), grants.c.purpose).where(
            grants.c.key_id == old,
            grants.c.purpose.in_(ceiling),
            *(
                ~exists().where(
                    and_(
                        table.c.key_id == new,
                        table.c.client_id == grants.c.client_id,
                        table.c.purpose == grants.c.purpose,
                    )
                )
                for table in (held, limited)
            ),
        )
        self._connection.execute(insert(grants).from_select(["client_id", "key_id", "purpose"], missing))

    def _copy_readers(self, old: int, new: int) -> None:
        present = select(key_owners.c.client_id).where(key_owners.c.key_id == new)
        missing = select(literal(new), key_owners.c.client_id).where(
            key_owners.c.key_id == old, key_owners.c.client_id.not_in(present)
        )
        self._connection.execute(insert(key_owners).from_select(["key_id", "client_id"], missing))

    def _copy_limited_grants(self, old: int, new: int, name: str, now: datetime) -> Iterator[str]:
        held = set(self._pairs(grants, new)) | set(self._pairs(limited_grants, new))
        ceiling = set(
            self._connection.scalars(select(key_purposes.c.purpose).where(key_purposes.c.key_id == new))
        )
        for client_id, record in self._limited_on(old):
            if int(record.purpose) not in ceiling or (client_id, int(record.purpose)) in held:
                continue
            what = f"{record.client} for {record.purpose.label}"
            if record.left == 0:
                yield f"the limited grant of {what} was not copied: no use is left"
            elif record.limits.not_after is not None and record.limits.not_after <= now:
                yield f"the limited grant of {what} was not copied: it has ended"
            else:
                limits = record.limits
                left = Limits(limits.not_after, record.left, limits.request, limits.constraints)
                self._limited.add(record.client, name, [record.purpose], left, now)
                if record.left is not None:
                    yield f"{what}: {record.left} uses of the new key, as many as are left of the old one"

    def _pairs(self, table: Any, key_id: int) -> Iterator[tuple[int, int]]:
        query = select(table.c.client_id, table.c.purpose).where(table.c.key_id == key_id)
        return (tuple(row) for row in self._connection.execute(query))

    def _limited_on(self, key_id: int) -> list[tuple[int, LimitedGrantRecord]]:
        ids = self._connection.scalars(
            select(limited_grants.c.id).where(limited_grants.c.key_id == key_id)
        ).all()
        found = [(pair[0], record) for chunk in chunks(ids) for pair, record in self._limited.of_rows(chunk)]
        return sorted(found, key=lambda each: (each[1].client, each[1].purpose))


def _record(row: Row[Any]) -> ReplacementRecord:
    return ReplacementRecord(row.name, row.successor, row.begun_at, row.switched_at)
