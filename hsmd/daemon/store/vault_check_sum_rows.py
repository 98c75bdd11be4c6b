"""Sums of checks by asker, record, verdict and day, for the owners whose keys were asked about; within one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Connection, Row, and_, bindparam, case, delete, select, update

from hsmd.daemon.store.columns import Upsert, UtcDateTime, upserts
from hsmd.daemon.store.records import Page
from hsmd.daemon.store.tables import vault_check_sums
from hsmd.daemon.store.vault_owner_rows import VaultOwners
from hsmd.daemon.store.vault_quotas import CHECK_SUMS_KEPT_DAYS
from hsmd.daemon.store.vault_records import CheckCount, CheckSum
from hsmd.errors import InternalFault

MAX_COUNTS = 1_000
"""Counts in one transaction."""
PRUNE_STEP = 1_000
"""Rows that one transaction removes."""


class VaultCheckSums:
    """How often clients have asked about an owner's keys, and with which result."""

    def __init__(self, connection: Connection, owners: VaultOwners) -> None:
        self._connection = connection
        self._owners = owners

    def add(self, counts: Iterable[CheckCount]) -> None:
        """Add checks to their sums. The rows are locked in one order, so that daemons do not wait for each other."""
        rows = _merged(counts)
        if len(rows) > MAX_COUNTS:
            raise InternalFault(detail=f"more than {MAX_COUNTS} sums of checks in one transaction")
        for row in rows:
            if not self._connection.execute(_UPDATE, _named(row)).rowcount:
                self._connection.execute(_INSERT[self._connection.dialect.name], row)

    def page(self, owner: str, after: int, limit: int) -> Page[CheckSum]:
        """At most `limit` sums of an owner in the order in which they began, following the row `after`."""
        row = self._owners.find(owner)
        if row is None:
            return Page((), more=False)
        mine = vault_check_sums.c.owner_id == row.owner_id
        query = select(vault_check_sums).where(mine, vault_check_sums.c.id > after)
        rows = self._connection.execute(query.order_by(vault_check_sums.c.id).limit(limit + 1)).all()
        return Page.cut([_record(each) for each in rows], limit)

    def prune(self, now: datetime) -> int:
        """Remove sums older than CHECK_SUMS_KEPT_DAYS; return how many, at most 1,000: to be repeated until it is 0."""
        day = _day(now - timedelta(days=CHECK_SUMS_KEPT_DAYS))
        old = select(vault_check_sums.c.id).where(vault_check_sums.c.day < day).limit(PRUNE_STEP)
        ids = list(self._connection.scalars(old))
        if ids:
            self._connection.execute(delete(vault_check_sums).where(vault_check_sums.c.id.in_(ids)))
        return len(ids)


_SAME = and_(
    vault_check_sums.c.owner_id == bindparam("of_owner"),
    vault_check_sums.c.day == bindparam("on_day"),
    vault_check_sums.c.asker_id == bindparam("by_asker"),
    vault_check_sums.c.record == bindparam("of_record"),
    vault_check_sums.c.verdict == bindparam("with_verdict"),
)


def _sums(checks: Any, asker: Any, last_at: Any) -> dict[str, Any]:
    """A row with more checks, of an asker that may have been renamed. Clocks of daemons differ: the last one stays last."""
    later = case((vault_check_sums.c.last_at < last_at, last_at), else_=vault_check_sums.c.last_at)
    return {"checks": vault_check_sums.c.checks + checks, "asker": asker, "last_at": later}


def _insert(statement: Upsert) -> Any:
    names = [column.name for column in vault_check_sums.c if column.name != "id"]
    new = statement.values({name: bindparam(name) for name in names})
    return new.on_conflict_do_update(
        index_elements=["owner_id", "day", "asker_id", "record", "verdict"],
        set_=_sums(new.excluded.checks, new.excluded.asker, new.excluded.last_at),
    )


_UPDATE = (
    update(vault_check_sums)
    .where(_SAME)
    .values(
        _sums(
            bindparam("more_checks", type_=BigInteger),
            bindparam("asker_now"),
            bindparam("later", type_=UtcDateTime),
        )
    )
)
_INSERT = upserts(vault_check_sums, _insert)
"""For what `_UPDATE` does not find. Alone it would take a row id for each sum that is there, and they are not endless."""


def _merged(counts: Iterable[CheckCount]) -> Sequence[dict[str, Any]]:
    """One row for each sum, in the order of their keys."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for each in counts:
        key = (each.owner_row, _day(each.at), each.asker_row, each.record, each.verdict)
        row = rows.get(key)
        if row is None:
            rows[key] = _row(each)
        else:
            row["checks"] += each.count
            row["first_at"] = min(row["first_at"], each.at)
            row["last_at"] = max(row["last_at"], each.at)
    return [rows[key] for key in sorted(rows)]


def _row(count: CheckCount) -> dict[str, Any]:
    return {
        "owner_id": count.owner_row,
        "day": _day(count.at),
        "asker_id": count.asker_row,
        "asker": count.asker,
        "record": count.record,
        "verdict": count.verdict,
        "checks": count.count,
        "first_at": count.at,
        "last_at": count.at,
    }


def _named(row: dict[str, Any]) -> dict[str, Any]:
    """The values of a row by the parameters of `_UPDATE`."""
    return {
        "of_owner": row["owner_id"],
        "on_day": row["day"],
        "by_asker": row["asker_id"],
        "of_record": row["record"],
        "with_verdict": row["verdict"],
        "more_checks": row["checks"],
        "asker_now": row["asker"],
        "later": row["last_at"],
    }


def _day(moment: datetime) -> str:
    return moment.astimezone(UTC).date().isoformat()


def _record(row: Row[Any]) -> CheckSum:
    return CheckSum(
        row.id, row.asker, row.record, row.verdict, row.day, row.checks, row.first_at, row.last_at
    )
