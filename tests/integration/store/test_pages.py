"""Pages of lists: together they are the list, each is read along an index, and none is longer than an answer may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import event, text

from hsmd.daemon.store import KeyRecord, Limits, RevocationRecord, Store, grant_rows, key_rows
from hsmd.errors import BadRequest
from hsmd.protocol.roles import Role
from hsmd.purposes import Purpose
from tests.support.store import key_record

FRONT_END = frozenset({Role.FRONT_END})
NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEYS, CLIENTS = 7, 5


@pytest.fixture
def filled(store: Store) -> Store:
    """Each client has a grant on each key but one; the last client has none."""
    with store.write() as tx:
        for number in range(KEYS):
            tx.keys.add(key_record(f"k{number}"))
        for number in range(CLIENTS):
            tx.clients.add(f"c{number}", FRONT_END, NOW)
        for client in range(CLIENTS - 1):
            for key in range(KEYS):
                if key == client:
                    continue
                if (client + key) % 3 == 0:
                    tx.limited_grants.add(
                        f"c{client}", f"k{key}", {Purpose.TLS13_SERVER}, Limits(max_uses=1), NOW
                    )
                else:
                    tx.grants.add(f"c{client}", f"k{key}", {Purpose.TLS13_SERVER, Purpose.TLS12_SERVER})
        for key in (1, 4, 2):
            for client in (3, 0):
                tx.readers.add(f"k{key}", f"c{client}")
        for number in (3, 1, 2):
            tx.revocations.add(RevocationRecord("serial", "SHA256:" + "c" * 43, str(number), NOW))
    return store


@pytest.mark.parametrize("limit", [1, 2, 5, 100])
@pytest.mark.parametrize("at_once", [1, 2, 50])
def test_pages_of_grants_are_all_grants(
    filled: Store, limit: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grant_rows, "_CLIENTS", at_once)
    found, after = [], ""
    while True:
        page = filled.query(lambda tx, after=after: tx.grants.page("", "", after, limit))  # type: ignore[misc]
        found += [(grant.client, grant.key) for grant in page.items]
        if not page.more:
            break
        after = "/".join(found[-1])
    assert found == [
        (f"c{client}", f"k{key}") for client in range(CLIENTS - 1) for key in range(KEYS) if key != client
    ]


@pytest.mark.parametrize("few", [0, 100])
def test_pages_of_some_keys_are_these_keys(filled: Store, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_rows, "_FEW", few)
    monkeypatch.setattr(key_rows, "_LOOKED_AT", 2)
    wanted = [f"k{number}" for number in (0, 3, 4, 6)]
    digests = {key_record(name).digest for name in wanted}
    for limit in (1, 2, 3, 100):
        found: list[KeyRecord] = []
        while True:
            after = found[-1].name if found else ""
            page = filled.query(lambda tx, after=after: tx.keys.page(after, limit, digests))  # type: ignore[misc]
            found += page.items
            if not page.more:
                break
        assert [key.name for key in found] == wanted
        assert found[0] == filled.query(lambda tx: tx.keys.get("k0"))


def test_pages_of_readers_and_revocations_are_all_of_them(filled: Store) -> None:
    readers = [(f"k{key}", f"c{client}") for key in (1, 2, 4) for client in (0, 3)]
    assert [(each.key, each.client) for each in filled.query(lambda tx: tx.readers.all())] == readers
    first = filled.query(lambda tx: tx.readers.page("", 5))
    second = filled.query(lambda tx: tx.readers.page("k4/c0", 5))
    assert [(each.key, each.client) for each in (*first.items, *second.items)] == readers
    assert (first.more, second.more) == (True, False)
    for after in ("k4", "k4/", "/c0", "k4/c0/x"):
        with pytest.raises(BadRequest, match="after"):
            filled.query(lambda tx, after=after: tx.readers.page(after, 5))  # type: ignore[misc]
    pages = [filled.query(lambda tx, skip=skip: tx.revocations.page(skip, 2)) for skip in (0, 2, 4)]  # type: ignore[misc]
    assert [[each.value for each in page.items] for page in pages] == [["1", "2"], ["3"], []]
    assert [page.more for page in pages] == [True, False, False]


def test_operators_are_found_without_the_other_clients(filled: Store) -> None:
    with filled.write() as tx:
        tx.clients.add("ann", frozenset({Role.OPERATOR}), NOW)
        tx.clients.add("bob", frozenset({Role.AUDITOR, Role.OPERATOR}), NOW)
    assert [client.name for client in filled.query(lambda tx: tx.clients.with_role(Role.OPERATOR))] == [
        "ann",
        "bob",
    ]
    with filled._engine.begin() as connection:  # as a daemon of a release with one role per client adds one
        connection.execute(text("DELETE FROM client_roles"))
    assert [client.name for client in filled.query(lambda tx: tx.clients.with_role(Role.OPERATOR))] == [
        "ann",
        "bob",
    ]


# --- along an index ---

PAGES: dict[str, Callable[[Any], object]] = {
    "keys": lambda tx: tx.keys.page("k3", 2),
    "clients": lambda tx: tx.clients.page("c3", 2),
    "grants": lambda tx: tx.grants.page("", "", "c1/k1", 2),
    "grants of a client": lambda tx: tx.grants.page("c1", "", "c1/k1", 2),
    "grants on a key": lambda tx: tx.grants.page("", "k1", "c1/k1", 2),
    "readers": lambda tx: tx.readers.page("k1/c0", 2),
    "revocations": lambda tx: tx.revocations.page(1, 2),
    "destroyed keys": lambda tx: tx.history.page(3, 2),
    "a difference": lambda tx: tx.difference(replace(tx._notes.standing(), version=1)),
}


@pytest.fixture
def plans(filled: Store, empty_url: str) -> Iterator[Callable[[Callable[[Any], object]], list[str]]]:
    """The steps of a database's plans for the statements of an action."""
    explain = "EXPLAIN QUERY PLAN " if empty_url.startswith("sqlite") else "EXPLAIN "
    statements: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *more: Any) -> None:
        if not statement.startswith("EXPLAIN"):
            statements.append((statement, parameters))

    def plans(action: Callable[[Any], object]) -> list[str]:
        with filled.read() as tx:
            if not empty_url.startswith("sqlite"):  # small tables are read whole unless that is forbidden
                tx.connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            statements.clear()
            action(tx)
            return [
                str(row[-1])
                for statement, parameters in list(statements)
                if statement.lstrip().startswith("SELECT")
                for row in tx.connection.exec_driver_sql(explain + statement, parameters)
            ]

    event.listen(filled._engine, "before_cursor_execute", note)
    yield plans
    event.remove(filled._engine, "before_cursor_execute", note)


def test_no_page_and_no_difference_reads_a_whole_table(
    plans: Callable[[Callable[[Any], object]], list[str]],
) -> None:
    whole = {name: [step for step in plans(page) if _reads_all(step)] for name, page in PAGES.items()}
    assert whole == {name: [] for name in PAGES}


def _reads_all(step: str) -> bool:
    """Whether a step of a plan goes through a table, but for results of other steps and tables with one row."""
    scan = "Seq Scan" in step or (step.startswith("SCAN ") and " USING " not in step)
    return scan and not any(
        name in step
        for name in ("CONSTANT ROW", "ROW VALUES CLAUSE", "(subquery", "anon_1", "state", "ledger")
    )


def test_a_whole_table_is_seen(plans: Callable[[Callable[[Any], object]], list[str]]) -> None:
    """Positive control: the search in plans finds a query without an index."""
    steps = plans(lambda tx: tx.connection.exec_driver_sql("SELECT id FROM keys WHERE token = 'x'").all())
    assert any(map(_reads_all, steps))
