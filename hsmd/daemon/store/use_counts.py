"""The counts of uses of limited grants, which outlive grants, clients and keys, within one transaction."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, func, insert, literal, select, update

from hsmd.daemon.store.lock_order import Lock, LockOrder
from hsmd.daemon.store.tables import grant_use_names, grant_uses, limited_grants
from hsmd.purposes import Purpose


class Count(NamedTuple):
    """A row of `grant_uses`: how many uses were counted, and whether that is not known after a restore."""

    id: int
    used: int
    held: bool


class UseCounts:
    """Finds or begins the count for a client, a key and a purpose."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def find(self, client_id: int, client: str, digest: bytes, purpose: Purpose) -> Count:
        """The count for this client, key and purpose; begun if there is none.

        It goes on from the highest count of a client that had the same name, so that adding a client again gives no
        use back.
        """
        same = and_(grant_uses.c.key_digest == digest, grant_uses.c.purpose == int(purpose))
        own = select(grant_uses.c.id, grant_uses.c.used, grant_uses.c.held).where(
            same, grant_uses.c.client_id == client_id
        )
        found = self._connection.execute(own).one_or_none()
        if found is None:
            self._begin(client_id, client, digest, purpose)
            found = self._connection.execute(own).one()
        keep_name(self._connection, client, grant_uses.c.id == found.id)
        return Count(found.id, found.used, found.held)

    def release(self, uses_id: int) -> None:
        """An operator has stated the limit anew after a restore: go on from the known count."""
        self._connection.execute(update(grant_uses).where(grant_uses.c.id == uses_id).values(held=False))

    def _begin(self, client_id: int, client: str, digest: bytes, purpose: Purpose) -> None:
        namesakes = (
            select(func.max(grant_uses.c.used), func.count().filter(grant_uses.c.held))
            .join(grant_use_names, grant_use_names.c.uses_id == grant_uses.c.id)
            .where(
                grant_uses.c.key_digest == digest,
                grant_uses.c.purpose == int(purpose),
                grant_use_names.c.client == client,
            )
        )
        used, held = self._connection.execute(namesakes).one()
        row = {"client_id": client_id, "key_digest": digest, "purpose": int(purpose)}
        self._connection.execute(insert(grant_uses).values(**row, used=used or 0, held=held > 0))


def wait_for_uses(connection: Connection, order: LockOrder, of_grants: ColumnElement[bool]) -> None:
    """Lock limited grants (a condition on them), in the order in which uses that are being counted lock theirs.

    First step of what removes grants or releases their counts: a use locks its grant, then its count. Whoever locked the
    count first, as the removal of a client does, or the grants in another order, would wait in a circle.
    """
    order.take(Lock.GRANT)
    query = select(limited_grants.c.id).where(of_grants).order_by(limited_grants.c.id)
    connection.execute(query.with_for_update()).all()


def keep_name(connection: Connection, client: str, counts: ColumnElement[bool]) -> None:
    """Remember that the client of these counts (a condition on `grant_uses`) has or had this name."""
    known = select(grant_use_names.c.uses_id).where(grant_use_names.c.client == client)
    missing = select(grant_uses.c.id, literal(client)).where(counts, grant_uses.c.id.not_in(known))
    connection.execute(insert(grant_use_names).from_select(["uses_id", "client"], missing))
