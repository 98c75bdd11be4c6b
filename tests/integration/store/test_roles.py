"""Roles of clients in the store: sets, the pair that no client has, and rows of releases with one role per client."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from sqlalchemy import create_engine, text

from hsmd.daemon.store import CredentialRecord, EnrolmentRecord, KeyRecord, Store
from hsmd.daemon.store.migrate import migrate
from hsmd.daemon.store.portable import decode
from hsmd.errors import BadRequest, Conflict, NotFound, StoreFailure
from hsmd.protocol.roles import AT_OPERATOR_ADDRESSES, Role
from hsmd.purposes import Purpose

OPERATOR, FRONT_END, OWNER, DEPOSITARY = (
    frozenset({role}) for role in (Role.OPERATOR, Role.FRONT_END, Role.OWNER, Role.DEPOSITARY)
)
ELSEWHERE = frozenset(Role) - AT_OPERATOR_ADDRESSES
SETS = [frozenset(each) for size in (1, 2, 3, 7) for each in itertools.combinations(Role, size)]


def roles(store: Store, name: str) -> set[str]:
    return {role.value for role in store.query(lambda tx: tx.clients.get(name)).roles}


def run(url: str, statement: str) -> Any:
    """Run a statement as another program would, and return the rows of a query."""
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("PRAGMA foreign_keys = ON")
            found = connection.execute(text(statement))
            return [tuple(row) for row in found] if found.returns_rows else []
    finally:
        engine.dispose()


def test_a_client_has_every_set_of_roles_but_some(store: Store, empty_url: str, now: datetime) -> None:
    """No empty one, and no operator that is a depositary."""
    with pytest.raises(BadRequest, match="without a role"):
        store.change(lambda tx: tx.clients.add("none", frozenset(), now))
    added = 0
    for number, wanted in enumerate(SETS):
        if {Role.OPERATOR, Role.DEPOSITARY} <= wanted:
            with pytest.raises(BadRequest, match="operator and depositary exclude each other"):
                store.change(lambda tx, n=number, w=wanted: tx.clients.add(f"c{n}", w, now))  # type: ignore[misc]
            continue
        store.change(lambda tx, n=number, w=wanted: tx.clients.add(f"c{n}", w, now))  # type: ignore[misc]
        assert store.query(lambda tx, n=number: tx.clients.get(f"c{n}")).roles == wanted  # type: ignore[misc]
        added += 1
    found = store.query(lambda tx: tx.clients.page("", 500)).items
    assert {client.name: client.roles for client in found} == {
        client.name: client.roles for client in store.load().clients
    }
    assert len(found) == added > 50


@pytest.mark.parametrize(
    ("held", "old"),
    [
        ({Role.OPERATOR}, "operator"),
        ({Role.AUDITOR}, "auditor"),
        ({Role.FRONT_END}, "front-end"),
        ({Role.OWNER}, "front-end"),
        ({Role.CHECKER, Role.NODE, Role.DEPOSITARY}, "front-end"),
        ({Role.OWNER, Role.AUDITOR}, "auditor"),
        ({Role.FRONT_END, Role.OPERATOR}, "operator"),
    ],
)
def test_the_column_for_older_releases_holds_a_role_that_they_know(
    store: Store, empty_url: str, now: datetime, held: set[Role], old: str
) -> None:
    store.change(lambda tx: tx.clients.add("one", frozenset(held), now))
    store.change(lambda tx: tx.clients.add("two", OWNER, now))
    for role in held:
        store.change(lambda tx, r=role: tx.clients.add_role("two", r))  # type: ignore[misc]
    assert run(empty_url, "SELECT role FROM clients") == [(old,)] * 2


def test_roles_are_added_and_removed(store: Store, now: datetime) -> None:
    store.change(lambda tx: tx.clients.add("bob", OWNER, now))
    assert store.change(lambda tx: tx.clients.add_role("bob", Role.AUDITOR))
    assert not store.change(lambda tx: tx.clients.add_role("bob", Role.AUDITOR))
    assert roles(store, "bob") == {"owner", "auditor"}
    assert store.change(lambda tx: tx.clients.remove_role("bob", Role.OWNER))
    assert not store.change(lambda tx: tx.clients.remove_role("bob", Role.OWNER))
    assert roles(store, "bob") == {"auditor"}
    with pytest.raises(BadRequest, match="auditor is the only role of 'bob'"):
        store.change(lambda tx: tx.clients.remove_role("bob", Role.AUDITOR))
    for change in ("add_role", "remove_role"):
        with pytest.raises(NotFound, match="no client 'eve'"):
            store.change(lambda tx, c=change: getattr(tx.clients, c)("eve", Role.OWNER))  # type: ignore[misc]


def test_the_roles_of_a_client_that_exists_are_checked(store: Store, now: datetime) -> None:
    both = frozenset({Role.OWNER, Role.CHECKER})
    store.change(lambda tx: tx.clients.ensure("bob", both, now))
    store.change(lambda tx: tx.clients.ensure("bob", both, now))
    for other in (OWNER, both | {Role.NODE}):
        with pytest.raises(Conflict, match="'bob' is a client with the roles owner, checker, not"):
            store.change(lambda tx, o=other: tx.clients.ensure("bob", o, now))  # type: ignore[misc]


# --- the pair ---


@pytest.mark.parametrize(("first", "second"), [(OPERATOR, DEPOSITARY), (DEPOSITARY, OPERATOR)])
def test_no_operator_becomes_a_depositary(
    store: Store, now: datetime, first: frozenset[Role], second: frozenset[Role]
) -> None:
    store.change(lambda tx: tx.clients.add("bob", first, now))
    with pytest.raises(BadRequest, match="exclude each other"):
        store.change(lambda tx: tx.clients.add_role("bob", *second))
    with pytest.raises(BadRequest, match="exclude each other"):
        store.change(lambda tx: tx.clients.ensure("eve", first | second, now))
    assert store.query(lambda tx: tx.clients.get("bob")).roles == first


def test_the_database_refuses_the_pair_itself(store: Store, empty_url: str, now: datetime) -> None:
    """Whatever program writes the rows; other roles are not refused."""
    store.change(lambda tx: tx.clients.add("bob", OPERATOR, now))
    insert = "INSERT INTO client_roles (client_id, role) SELECT id, '{}' FROM clients"
    run(empty_url, insert.format("checker"))
    with pytest.raises(Exception, match=r"(?i)unique"):
        run(empty_url, insert.format("depositary"))
    assert roles(store, "bob") == {"operator", "checker"}


def test_a_restored_backup_has_the_roles_and_not_the_pair(
    store: Store, empty_url: str, now: datetime, tmp_path: Any
) -> None:
    held = frozenset({Role.OWNER, Role.DEPOSITARY})
    store.change(lambda tx: tx.clients.add("bob", held, now))
    backup = store.export()
    good = Store(f"sqlite:///{tmp_path}/good.db")
    good.restore(backup)
    assert good.query(lambda tx: tx.clients.get("bob")).roles == held
    good.close()
    document = decode(backup)
    rows = [
        {**row, "role": row["role"].replace("owner", "operator")} for row in document.tables["client_roles"]
    ]
    assert rows != document.tables["client_roles"]
    edited = msgspec.structs.replace(document, tables={**document.tables, "client_roles": rows})
    bad = Store(f"sqlite:///{tmp_path}/bad.db")
    with pytest.raises(StoreFailure):
        bad.restore(msgspec.json.encode(edited))
    bad.close()


# --- grants and tokens ---


def test_with_the_role_of_a_front_end_a_client_loses_its_grants(
    store: Store, now: datetime, make_key: Callable[..., KeyRecord]
) -> None:
    """They do not come back with the role, and a client that keeps the role keeps them."""
    store.change(lambda tx: tx.keys.add(make_key("site")))
    for name in ("bob", "eve"):
        store.change(lambda tx, n=name: tx.clients.add(n, FRONT_END | OWNER, now))  # type: ignore[misc]
        store.change(lambda tx, n=name: tx.grants.add(n, "site", {Purpose.TLS13_SERVER}))  # type: ignore[misc]
    store.change(lambda tx: tx.clients.remove_role("eve", Role.OWNER))
    store.change(lambda tx: tx.clients.remove_role("bob", Role.FRONT_END))
    with pytest.raises(BadRequest, match="'bob' is not a front end"):
        store.change(lambda tx: tx.grants.add("bob", "site", {Purpose.TLS13_SERVER}))
    store.change(lambda tx: tx.clients.add_role("bob", Role.FRONT_END))
    assert [grant.client for grant in store.load().grants] == ["eve"]


@pytest.mark.parametrize(
    ("held", "at_operators", "elsewhere"),
    [
        ({Role.OPERATOR}, True, False),
        ({Role.AUDITOR}, True, False),
        ({Role.FRONT_END}, False, True),
        ({Role.OWNER, Role.CHECKER, Role.NODE, Role.DEPOSITARY}, False, True),
        ({Role.OPERATOR, Role.FRONT_END}, True, False),
        ({Role.AUDITOR, Role.NODE}, True, False),
    ],
)
def test_a_token_is_of_use_where_all_that_it_makes_is_admitted(
    store: Store, now: datetime, held: set[Role], at_operators: bool, elsewhere: bool
) -> None:
    """Whoever becomes an operator or auditor with it, among other things, does so only at the operators' addresses."""
    store.change(lambda tx: tx.clients.add("bob", frozenset(held), now))
    token = EnrolmentRecord("id", "bob", b"s" * 32, now + timedelta(minutes=15))
    store.change(lambda tx: tx.enrolments.add(token, now))

    def check(*at: frozenset[Role]) -> bool:
        return store.change(lambda tx: tx.enrolments.check("id", b"s" * 32, now, *at), versioned=False)

    assert check(AT_OPERATOR_ADDRESSES) is at_operators
    assert check(ELSEWHERE) is elsewhere
    assert check()


def test_a_further_role_voids_a_token(
    store: Store, now: datetime, make_credential: Callable[[str], CredentialRecord]
) -> None:
    """It may have been admitted already, where the further role would not have been."""
    store.change(lambda tx: tx.clients.add("bob", FRONT_END, now))
    token = EnrolmentRecord("id", "bob", b"s" * 32, now + timedelta(minutes=15))
    store.change(lambda tx: tx.enrolments.add(token, now))
    use = ("id", b"s" * 32, make_credential("a"), now)
    assert store.change(lambda tx: tx.enrolments.check("id", b"s" * 32, now, ELSEWHERE), versioned=False)
    assert not store.change(lambda tx: tx.clients.add_role("bob", Role.FRONT_END))
    assert store.change(lambda tx: tx.clients.add_role("bob", Role.OPERATOR))
    with pytest.raises(NotFound):
        store.change(lambda tx: tx.enrolments.use(*use))


# --- other releases ---


def test_the_migration_keeps_every_role(empty_url: str, now: datetime) -> None:
    store = Store(empty_url)
    migrate(store._engine, store._path, "0004")
    for role in ("operator", "auditor", "front-end"):
        run(empty_url, f"INSERT INTO clients (name, role, created_at) VALUES ('{role}', '{role}', '{now}')")
    store.migrate()
    clients = store.load().clients
    assert {client.name: {role.value for role in client.roles} for client in clients} == {
        role: {role} for role in ("operator", "auditor", "front-end")
    }
    assert len(run(empty_url, "SELECT * FROM client_roles")) == 3
    store.close()


def test_a_client_that_an_older_release_added_has_its_role(
    store: Store, empty_url: str, now: datetime, make_credential: Callable[[str], CredentialRecord]
) -> None:
    """Such a release writes no roles, reads them from `clients`, and removes the client with all of its rows."""
    run(empty_url, f"INSERT INTO clients (name, role, created_at) VALUES ('ann', 'operator', '{now}')")
    assert roles(store, "ann") == {"operator"} == {role.value for role in store.load().clients[0].roles}
    store.change(lambda tx: tx.clients.ensure("ann", OPERATOR, now))
    with pytest.raises(BadRequest, match="exclude each other"):
        store.change(lambda tx: tx.clients.add_role("ann", Role.DEPOSITARY))
    store.change(lambda tx: tx.clients.add_role("ann", Role.OWNER))
    assert roles(store, "ann") == {"operator", "owner"}
    assert len(run(empty_url, "SELECT * FROM client_roles")) == 2
    run(empty_url, "DELETE FROM clients")
    assert run(empty_url, "SELECT * FROM client_roles") == []


def test_a_role_of_a_later_release_gives_nothing(store: Store, empty_url: str, now: datetime) -> None:
    """Neither a right, nor the role in the column for older releases; and it stays when other roles change."""
    store.change(lambda tx: tx.clients.add("ann", OPERATOR, now))
    run(empty_url, "UPDATE client_roles SET role = 'king'")
    assert store.query(lambda tx: tx.clients.get("ann")).roles == frozenset()
    assert store.load().clients == (replace(store.load().clients[0], roles=frozenset()),)
    store.change(lambda tx: tx.clients.add_role("ann", Role.NODE))
    assert sorted(run(empty_url, "SELECT role FROM client_roles")) == [("king",), ("node",)]
