"""Rows of limited grants, and the one statement that decides about a use and counts it, within one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    Row,
    Select,
    and_,
    bindparam,
    delete,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

from hsmd.daemon.store.client_rows import Clients
from hsmd.daemon.store.columns import in_pairs
from hsmd.daemon.store.counted_use_rows import CountedUses
from hsmd.daemon.store.event_rows import Events
from hsmd.daemon.store.key_rows import Keys, known_purpose
from hsmd.daemon.store.lock_order import Lock, LockOrder
from hsmd.daemon.store.records import (
    CountedUse,
    KeyRecord,
    LimitedGrantRecord,
    Limits,
    NotCounted,
    Readers,
    WantedUse,
)
from hsmd.daemon.store.tables import clients, grant_uses, grants, keys, limited_grants
from hsmd.daemon.store.use_counts import UseCounts, wait_for_uses
from hsmd.errors import BadRequest, Conflict
from hsmd.protocol.roles import Role
from hsmd.purposes import WITH_ALLOWED_NAMES, AllowedNames, Purpose, check_grantable, labels

EXHAUSTED_EVENT = "grant.exhausted"
"""Appended with the last use; read by operators, auditors and the client."""


def _counting() -> ReturningUpdate[Any]:
    """The statement that decides about some uses, and counts all or none; returns the last number and the limit.

    The lock is FOR NO KEY UPDATE on PostgreSQL. Locks FOR SHARE would be granted to later uses while a change waits, so
    that daemons with many uses could put off the removal of a grant without end.
    """
    grant_id = bindparam("grant_id", type_=Integer)
    uses = bindparam("uses", type_=Integer)
    not_ended = or_(limited_grants.c.not_after.is_(None), limited_grants.c.not_after > bindparam("at"))
    within = (
        select(limited_grants.c.uses_id, limited_grants.c.max_uses)
        .where(limited_grants.c.id == grant_id, not_ended)
        .with_for_update(key_share=True)
        .cte("within")
    )
    left = and_(~grant_uses.c.held, grant_uses.c.used + uses <= within.c.max_uses)
    limit = select(limited_grants.c.max_uses).where(limited_grants.c.id == grant_id).scalar_subquery()
    return (
        update(grant_uses)
        .where(grant_uses.c.id == within.c.uses_id, or_(within.c.max_uses.is_(None), left))
        .values(used=grant_uses.c.used + uses)
        .returning(grant_uses.c.used, limit)
    )


_COUNT = _counting()
"""Made once: to build it takes longer than to run it."""
_LEAST = bindparam("least", type_=BigInteger)
_RAISE = (
    update(grant_uses)
    .where(grant_uses.c.id == bindparam("uses_row"), grant_uses.c.used < _LEAST)
    .values(used=_LEAST)
)


class LimitedGrants:
    """The purposes for which clients may use keys within limits, each with a limit and a count of its own."""

    def __init__(
        self,
        connection: Connection,
        client_rows: Clients,
        key_rows: Keys,
        events: Events,
        counted_uses: CountedUses,
        order: LockOrder,
    ) -> None:
        self._connection = connection
        self._order = order
        self._clients = client_rows
        self._keys = key_rows
        self._events = events
        self._counted_uses = counted_uses
        self._counts = UseCounts(connection)

    def add(self, client: str, key: str, purposes: Iterable[Purpose], limits: Limits, now: datetime) -> None:
        """Grant these purposes within limits, or change the limits of such grants; limits not given stay as they are.

        Uses that were counted before count on. Raises NotFound (client, key), BadRequest (as `Grants.add`; limits that
        allow nothing), Conflict if a grant without limits exists.
        """
        wanted = frozenset(purposes)
        client_row = self._clients.row(client)
        key_record = self._keys.get(key)
        self._clients.check_is_front_end(client_row)
        check_grantable(key_record.purposes, wanted)
        _check(wanted, limits, now)
        key_id = self._keys.find_id(key)
        self._check_no_unlimited(client_row, key, key_id, wanted)
        wait_for_uses(self._connection, self._order, _held_by(client_row.id, key_id))
        for purpose in sorted(wanted):
            self._add(client_row, key_record, key_id, purpose, limits, now)

    def count(self, uses: Sequence[WantedUse], now: datetime) -> list[CountedUse | NotCounted]:
        """Decide about each use, in the statement that counts it; return them counted, or why they must not take place.

        The grant's row is locked against changes until the transaction ends, so what is decided is true when it is
        counted: under READ COMMITTED the statement alone would see the limits as they were when it began. Grants are
        locked in the order of their ids, so that transactions do not wait for each other in a circle. What was counted
        is kept in `counted_uses`.
        """
        positions: dict[int, list[int]] = {}
        for position, use in enumerate(uses):
            positions.setdefault(use.grant, []).append(position)
        results: dict[int, CountedUse | NotCounted] = {}
        for grant_id in sorted(positions):
            self._order.take(Lock.GRANT, f"{grant_id:020}")
            numbers = self._count(grant_id, len(positions[grant_id]), now)
            for position, number in zip(positions[grant_id], numbers, strict=True):
                if not isinstance(number, NotCounted):
                    results[position] = CountedUse(uses[position], number, now)
                else:
                    results[position] = number
        decided = [results[position] for position in range(len(uses))]
        self._counted_uses.add(use for use in decided if isinstance(use, CountedUse))
        return decided

    def raise_counts(self, counts: Sequence[tuple[int, int]]) -> int:
        """Raise counts of uses, given with the row ids of the counts, to at least these; return how many were lower.

        For a restored store that no daemon uses yet: what is held stays so, and no grant is locked.
        """
        raised = 0
        for uses_id, used in counts:
            wanted = {"uses_row": uses_id, "least": used}
            raised += self._connection.execute(_RAISE, wanted).rowcount
        return raised

    def of(self, client: str, key: str) -> list[LimitedGrantRecord]:
        """The limited grants of a client on a key, in order of purpose. Raises NotFound."""
        pair = (self._clients.find_id(client), self._keys.find_id(key))
        return self.of_pairs([pair])[pair]

    def of_pairs(self, pairs: Sequence[tuple[int, int]]) -> dict[tuple[int, int], list[LimitedGrantRecord]]:
        """The limited grants of at most a page of pairs (client id, key id), in order of purpose."""
        found: dict[tuple[int, int], list[LimitedGrantRecord]] = {pair: [] for pair in pairs}
        query = _rows().where(in_pairs(limited_grants.c.client_id, limited_grants.c.key_id, pairs))
        for row in self._connection.execute(query.order_by(limited_grants.c.purpose)):
            if (record := _record(row)) is not None:
                found[row.client_id, row.key_id].append(record)
        return found

    def of_rows(self, grant_ids: Sequence[int]) -> list[tuple[tuple[int, int], LimitedGrantRecord]]:
        """The limited grants with these row ids, of at most a chunk, each with its pair (client id, key id)."""
        rows = self._connection.execute(_rows().where(limited_grants.c.id.in_(grant_ids)))
        return [((row.client_id, row.key_id), record) for row in rows if (record := _record(row)) is not None]

    def all(self) -> list[LimitedGrantRecord]:
        """All limited grants in order of client, key and purpose."""
        rows = self._connection.execute(
            _rows().order_by(clients.c.name, keys.c.name, limited_grants.c.purpose)
        )
        return [record for record in map(_record, rows) if record is not None]

    def remove(self, client_id: int, key_id: int, codes: Iterable[int]) -> bool:
        """Remove these purposes, or all if none is named; return whether any was granted. The counts stay."""
        statement = delete(limited_grants).filter_by(client_id=client_id, key_id=key_id)
        if chosen := list(codes):
            statement = statement.where(limited_grants.c.purpose.in_(chosen))
        wait_for_uses(self._connection, self._order, _held_by(client_id, key_id))
        return self._connection.execute(statement).rowcount > 0

    def _add(
        self, client: Row[Any], key: KeyRecord, key_id: int, purpose: Purpose, limits: Limits, now: datetime
    ) -> None:
        held = {"client_id": client.id, "key_id": key_id, "purpose": int(purpose)}
        present = self._connection.execute(select(limited_grants).filter_by(**held)).one_or_none()
        counted = self._counts.find(client.id, client.name, key.digest, purpose)
        if limits.max_uses is not None:
            if limits.max_uses <= counted.used:
                raise BadRequest(
                    f"max_uses: {counted.used} uses of {key.name} by {client.name} for {purpose.label} are counted "
                    f"already; give a total above that"
                )
            if counted.held:
                self._counts.release(counted.id)
        new = {
            "not_after": limits.not_after,
            "max_uses": limits.max_uses,
            "request": limits.request,
            "constraints": limits.constraints,
        }
        if present is not None:
            given = {name: value for name, value in new.items() if value not in (None, "")}
            changed = update(limited_grants).where(limited_grants.c.id == present.id)
            self._connection.execute(changed.values(given or {"request": present.request}))
        elif limits == Limits(request=limits.request):
            raise BadRequest("max_uses: a limited grant needs a limit; give max_uses, not_after or names")
        elif purpose in WITH_ALLOWED_NAMES and not limits.constraints:
            raise needs_names(frozenset({purpose}))
        else:
            self._connection.execute(
                insert(limited_grants).values(**held, **new, uses_id=counted.id, created_at=now)
            )

    def _check_no_unlimited(
        self, client: Row[Any], key: str, key_id: int, wanted: frozenset[Purpose]
    ) -> None:
        query = select(grants.c.purpose).filter_by(client_id=client.id, key_id=key_id)
        held = wanted & {known_purpose(code) for code in self._connection.scalars(query)}
        if held:
            what = ", ".join(labels(held))
            raise Conflict(
                f"{client.name} may use {key} for {what} without limits already; remove that grant first "
                f"(hsmd grant remove), then add the limited one"
            )

    def _count(self, grant_id: int, uses: int, now: datetime) -> list[int | NotCounted]:
        """The numbers of so many uses of a grant: counted at once if all of them are left, or else one after the other."""
        if numbers := self._count_at_once(grant_id, uses, now):
            return list(numbers)
        results: list[int | NotCounted] = []
        while uses > 1 and len(results) < uses and (numbers := self._count_at_once(grant_id, 1, now)):
            results += numbers
        return results + [self._why_not(grant_id, now)] * (uses - len(results))

    def _count_at_once(self, grant_id: int, uses: int, now: datetime) -> range:
        """The numbers of so many uses; none if not all of them are left."""
        counted = self._connection.execute(
            _COUNT, {"grant_id": grant_id, "uses": uses, "at": now}
        ).one_or_none()
        if counted is None:
            return range(0)
        last, max_uses = counted
        if last == max_uses:
            self._tell_exhausted(grant_id, now)
        return range(last - uses + 1, last + 1)

    def _tell_exhausted(self, grant_id: int, now: datetime) -> None:
        row = self._connection.execute(_rows().where(limited_grants.c.id == grant_id)).one()
        readers = Readers(frozenset({Role.OPERATOR, Role.AUDITOR}), frozenset({row.client_id}))
        payload = {
            "client": row.client,
            "key": bytes(row.digest).hex(),
            "purpose": Purpose(row.purpose).label,
            "grant": row.id,
            "max_uses": row.max_uses,
            "request": row.request,
        }
        self._events.append(EXHAUSTED_EVENT, row.key, readers=readers, payload=payload, now=now)

    def _why_not(self, grant_id: int, now: datetime) -> NotCounted:
        query = select(
            limited_grants.c.not_after, limited_grants.c.max_uses, grant_uses.c.used, grant_uses.c.held
        )
        query = query.join(grant_uses, grant_uses.c.id == limited_grants.c.uses_id)
        found = self._connection.execute(query.where(limited_grants.c.id == grant_id)).one_or_none()
        if found is None:
            return NotCounted.REMOVED
        if found.not_after is not None and found.not_after <= now:
            return NotCounted.EXPIRED
        return NotCounted.HELD if found.held else NotCounted.EXHAUSTED


def _held_by(client_id: int, key_id: int) -> ColumnElement[bool]:
    """The grants of a client on a key."""
    return and_(limited_grants.c.client_id == client_id, limited_grants.c.key_id == key_id)


def needs_names(purposes: frozenset[Purpose]) -> BadRequest:
    """The error for a grant of these purposes without allowed names."""
    return BadRequest(
        f"names: {', '.join(labels(purposes))} is granted with allowed names only; name them, for example *.example.com"
    )


def _check(wanted: frozenset[Purpose], limits: Limits, now: datetime) -> None:
    if limits.not_after is not None and limits.not_after <= now:
        raise BadRequest(f"not_after: {limits.not_after:%Y-%m-%d %H:%M:%S} UTC has passed; give a later time")
    if limits.constraints:
        if others := wanted - WITH_ALLOWED_NAMES:
            raise BadRequest(f"names: they limit x509-request only, not {', '.join(labels(others))}")
        AllowedNames.parse(limits.constraints)


def _rows() -> Select[Any]:
    return (
        select(
            limited_grants,
            clients.c.name.label("client"),
            keys.c.name.label("key"),
            keys.c.digest,
            grant_uses.c.used,
            grant_uses.c.held,
        )
        .join(clients, clients.c.id == limited_grants.c.client_id)
        .join(keys, keys.c.id == limited_grants.c.key_id)
        .join(grant_uses, grant_uses.c.id == limited_grants.c.uses_id)
    )


def _record(row: Row[Any]) -> LimitedGrantRecord | None:
    """The grant of a row; None if its purpose is one of a newer release, which is not served."""
    purpose = known_purpose(row.purpose)
    if purpose is None:
        return None
    return LimitedGrantRecord(
        id=row.id,
        client=row.client,
        key=row.key,
        key_digest=bytes(row.digest),
        purpose=purpose,
        limits=Limits(row.not_after, row.max_uses, row.request, row.constraints),
        used=row.used,
        held=row.held,
        created_at=row.created_at,
    )
