"""What the vault asks the databases of 10,000 deposits of 100 owners: always by an index, and the same number of questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from hsmd.daemon.store import CheckCount, Store, Transaction
from hsmd.daemon.store.tables import metadata
from hsmd.protocol.roles import Role
from tests.support.vault_fill import fill
from tests.support.vault_store import ORIGIN, Owner

OWNERS, RECORDS = 100, 100
LARGE = ("vault_versions", "vault_records", "vault_statements", "vault_envelopes")

Action = Callable[[Transaction, Owner, datetime], object]
READS: dict[str, tuple[int, Action]] = {
    "get": (2, lambda tx, owner, now: tx.vault_versions.get(owner.name, "r77")),
    "list": (2, lambda tx, owner, now: tx.vault_versions.page(owner.name, "r5", 50)),
    "versions": (2, lambda tx, owner, now: tx.vault_versions.versions(owner.name, "r77")),
    "statements": (1, lambda tx, owner, now: tx.vault_statements.page(77, 0, 100)),
    "envelope": (1, lambda tx, owner, now: tx.vault_versions.envelope(77)),
    "check": (2, lambda tx, owner, now: tx.vault_checkers.look_up(owner.name, _row(owner), _NO_ROLES, _key(owner))),
    "check by a checker": (1, lambda tx, owner, now: tx.vault_checkers.look_up(owner.name, 1, _NO_ROLES, _key(owner))),
    "keys": (3, lambda tx, owner, now: tx.vault_keys.page(owner.name)),
    "next due": (1, lambda tx, owner, now: tx.vault_announcements.next_due()),
    "held": (2, lambda tx, owner, now: tx.vault_keys.held(3, 50)),
    "rekey": (
        5,
        lambda tx, owner, now: tx.vault_versions.sealed_to(owner.name, owner.management.digest, "r7/1", 50),
    ),
}  # fmt: skip
WRITES: dict[str, tuple[int, Action]] = {
    "acquire": (8, lambda tx, owner, now: tx.vault_acquisitions.count(owner.name, "r77", 0, "t", ORIGIN, now)),
    "announce": (10, lambda tx, owner, now: tx.vault_announcements.announce(now + timedelta(days=1), 1)),
    "suspend": (11, lambda tx, owner, now: tx.vault_records.suspend(owner.name, "r77", 1, "", now)),
    "put": (
        11,
        lambda tx, owner, now: tx.vault_records.put(
            owner.name, owner.sign(owner.deposit("new")), owner.envelope("new", 1), owner.spki("new", 1), now
        ),
    ),
    "limit": (
        12,
        lambda tx, owner, now: tx.vault_records.limit(owner.name, owner.sign(owner.next("r77", max_uses=3)), now),
    ),
    "sums": (
        2,
        lambda tx, owner, now: tx.vault_check_sums.add([CheckCount(_row(owner), "x", 1, "", "MATCH", now)]),
    ),
}  # fmt: skip
_NO_ROLES: frozenset[Role] = frozenset()


def _row(owner: Owner) -> int:
    return int(owner.name.removeprefix("owner")) + 1


def _key(owner: Owner) -> bytes:
    return sha256(owner.spki("r77", 1)).digest()


@pytest.fixture
def owners(store: Store) -> list[Owner]:
    made = fill(store, OWNERS, RECORDS)
    with store.write(versioned=False) as tx:
        tx.connection.execute(text("ANALYZE"))
    return made


@contextmanager
def statements_of(connection: Connection) -> Iterator[list[tuple[str, Any]]]:
    """The statements that are executed on a connection, with their parameters."""
    seen: list[tuple[str, Any]] = []

    def executed(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        seen.append((statement, parameters[0] if many else parameters))

    event.listen(connection, "before_cursor_execute", executed)
    try:
        yield seen
    finally:
        event.remove(connection, "before_cursor_execute", executed)


def scanned(connection: Connection, statement: str, parameters: Any) -> list[str]:
    """The large tables that the plan of a statement reads from the first row to the last."""
    if connection.dialect.name == "postgresql":
        # As for a disk without moving parts; otherwise 10,000 rows are read as fast as 50 of them are found one by one.
        connection.exec_driver_sql("SET LOCAL random_page_cost = 1.1")
        plan = [row[0] for row in connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)]
        return [table for table in LARGE for line in plan if f"Seq Scan on {table}" in line]
    plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    return [table for table in LARGE for line in plan if line.startswith(f"SCAN {table}")]


def test_every_question_is_answered_by_an_index(owners: list[Owner], store: Store, now: datetime) -> None:
    assert set(LARGE) <= set(metadata.tables)
    owner = owners[42]
    assert store.query(lambda tx: tx.vault_checkers.look_up(owner.name, _row(owner), _NO_ROLES, _key(owner)))
    asked: dict[str, int] = {}
    for name, (_, action) in (READS | WRITES).items():
        with store.write(versioned=False) as tx:
            with statements_of(tx.connection) as seen:
                action(tx, owner, now)
                tx.finish()
            asked[name] = len(seen)
            for statement, parameters in seen:
                assert scanned(tx.connection, statement, parameters) == [], f"{name}: {statement}"
    assert asked == {name: most for name, (most, _) in (READS | WRITES).items()}
