"""Rows of key readers, clients that may read all audit records about a key, and what each client may read; in one transaction."""

from __future__ import annotations

from sqlalchemy import Connection, and_, delete, insert, or_, select

from hsmd.daemon.store.client_rows import Clients
from hsmd.daemon.store.history_rows import KeyHistory
from hsmd.daemon.store.key_rows import Keys
from hsmd.daemon.store.names import pair_after
from hsmd.daemon.store.records import KeySpan, Page, ReaderRecord, ReadingRights
from hsmd.daemon.store.tables import clients, key_owners, keys

_PAGE = 500


class KeyReaders:
    """The readers of keys. Their table is called key_owners, as earlier releases called readers owners."""

    def __init__(
        self, connection: Connection, client_rows: Clients, key_rows: Keys, history: KeyHistory
    ) -> None:
        self._connection = connection
        self._clients = client_rows
        self._keys = key_rows
        self._history = history

    def add(self, key: str, client: str) -> bool:
        """Make a client a reader of a key; return whether it was not one already. Raises NotFound."""
        row = self._ids(key, client)
        if self._connection.execute(select(key_owners).filter_by(**row)).one_or_none() is not None:
            return False
        self._connection.execute(insert(key_owners).values(row))
        return True

    def remove(self, key: str, client: str) -> bool:
        """Remove a reader of a key; return whether it was one. Raises NotFound for an unknown key or client."""
        removed = self._connection.execute(delete(key_owners).filter_by(**self._ids(key, client)))
        return removed.rowcount > 0

    def page(self, after: str, limit: int) -> Page[ReaderRecord]:
        """At most `limit` readers in order of key and client.

        `after` is "key/client" of the last one of the page before, "" for the first page. Raises BadRequest if it is
        anything else.
        """
        key, client = pair_after(after, "key/client of the last reader")
        behind = or_(keys.c.name > key, and_(keys.c.name == key, clients.c.name > client))
        # The sum keeps keys from being looked up by their ids: SQLite 3.46 would go through all readers, and do that.
        query = (
            select(keys.c.name, keys.c.digest, clients.c.name)
            .join(key_owners, key_owners.c.key_id == keys.c.id + 0)
            .join(clients, clients.c.id == key_owners.c.client_id)
            .where(keys.c.name >= key, behind)
            .order_by(keys.c.name, clients.c.name)
            .limit(limit + 1)
        )
        rows = self._connection.execute(query)
        return Page.cut([ReaderRecord(key, bytes(digest), client) for key, digest, client in rows], limit)

    def all(self) -> list[ReaderRecord]:
        """All readers in order of key and client."""
        found: list[ReaderRecord] = []
        page = self.page("", _PAGE)
        while page.items:
            found += page.items
            page = self.page(f"{found[-1].key}/{found[-1].client}", _PAGE)
        return found

    def rights_of(self, client: str, *, owns: bool) -> ReadingRights:
        """What a client may read in audit logs; about its own keys only if it `owns` any by its role. Raises NotFound."""
        row = self._clients.row(client)
        owned, owned_names = self._history.spans_of_owner(row.id) if owns else ([], [])
        read = select(key_owners.c.key_id).where(key_owners.c.client_id == row.id)
        digests = self._connection.scalars(select(keys.c.digest).where(keys.c.id.in_(read)))
        return ReadingRights(
            since=row.named_at or row.created_at,
            keys=(*owned, *(KeySpan(bytes(digest), None, None) for digest in digests)),
            names=(*owned_names, *self._history.names_of_present(read)),
        )

    def _ids(self, key: str, client: str) -> dict[str, int]:
        return {"key_id": self._keys.find_id(key), "client_id": self._clients.find_id(client)}
