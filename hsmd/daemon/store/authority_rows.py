"""Rows of certificate authorities, at most one per key, within one transaction."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, case, insert, select, update

from hsmd.daemon.store.key_rows import Keys
from hsmd.daemon.store.names import check_after
from hsmd.daemon.store.records import AuthorityRecord, Page
from hsmd.daemon.store.tables import authorities, keys
from hsmd.errors import NotFound

_AUTHORITIES = select(authorities, keys.c.name).join(keys, keys.c.id == authorities.c.key_id)


class Authorities:
    """The keys that are authorities', and their revocation lists."""

    def __init__(self, connection: Connection, key_rows: Keys) -> None:
        self._connection = connection
        self._keys = key_rows

    def add(self, authority: AuthorityRecord) -> None:
        """Make a key an authority's. Raises NotFound for an unknown key."""
        row = {
            "key_id": self._keys.find_id(authority.key),
            "constraints": authority.constraints,
            "lists_at": msgspec.json.encode(authority.lists_at).decode(),
            "list_s": authority.list_s,
            "list_number": authority.list_number,
            "next_token": authority.next_token,
            "next_public_key": authority.next_public_key or None,
        }
        self._connection.execute(insert(authorities).values(row))

    def get(self, key: str) -> AuthorityRecord:
        """Raises NotFound for an unknown key, and for one that is not an authority's."""
        query = _AUTHORITIES.where(authorities.c.key_id == self.find_id(key))
        return _record(self._connection.execute(query).one())

    def find_id(self, key: str) -> int:
        """The row id of an authority, which is that of its key. Raises NotFound as `get`."""
        key_id = self._keys.find_id(key)
        query = select(authorities.c.key_id).where(authorities.c.key_id == key_id)
        if self._connection.scalar(query) is None:
            raise NotFound(f"{key} is not the key of an authority; `hsmd ca list` shows those that are")
        return key_id

    def page(self, after: str, limit: int) -> Page[AuthorityRecord]:
        """At most `limit` authorities in order of name, following `after`. Raises BadRequest for an invalid `after`."""
        query = _AUTHORITIES.where(keys.c.name > check_after(after)).order_by(keys.c.name).limit(limit + 1)
        return Page.cut([_record(row) for row in self._connection.execute(query)], limit)

    def has_next_key(self, public_key: bytes) -> bool:
        """Whether this key (DER SubjectPublicKeyInfo) is the one that will replace an authority."""
        query = select(authorities.c.key_id).where(authorities.c.next_public_key == public_key).limit(1)
        return self._connection.scalar(query) is not None

    def next_list_number(self, key: str, now: datetime) -> int:
        """The number of the next revocation list; it is used once, also if the list is not signed. Raises NotFound.

        It is the time in seconds since 1970, or one more than the last number: after a database was restored, which knows
        an earlier number, none is used a second time.
        """
        authority = authorities.c.key_id == self.find_id(key)
        seconds, following = int(now.timestamp()), authorities.c.list_number + 1
        counted = (
            update(authorities)
            .where(authority)
            .values(list_number=case((following > seconds, following), else_=seconds))
            .returning(authorities.c.list_number)
        )
        return int(self._connection.execute(counted).scalar_one())

    def set_list(self, key: str, number: int, document: bytes, ends: datetime) -> bool:
        """Store a signed list; returns whether it is the newest, and not one that another daemon has overtaken."""
        newest = update(authorities).where(
            authorities.c.key_id == self.find_id(key), authorities.c.list_number == number
        )
        done = self._connection.execute(newest.values(list_der=document, list_ends=ends))
        return done.rowcount > 0


def _record(row: Row[Any]) -> AuthorityRecord:
    return AuthorityRecord(
        key=row.name,
        constraints=row.constraints,
        lists_at=tuple(msgspec.json.decode(row.lists_at)),
        list_s=row.list_s,
        next_token=row.next_token,
        next_public_key=bytes(row.next_public_key or b""),
        list_number=row.list_number,
        list_der=bytes(row.list_der or b""),
        list_ends=row.list_ends,
    )
