"""Who may check an owner's keys, what a check finds, and the sums of checks, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from hashlib import sha256

import pytest
from sqlalchemy import event

from hsmd.daemon.store import AllowedCheckers, CheckCount, CheckFacts, CheckSum, Store, vault_checker_rows
from hsmd.errors import BadRequest, Conflict, InternalFault, NotFound
from hsmd.protocol.roles import Role
from tests.support.vault_store import Owner, management_statement, stated_key

DAY = timedelta(days=1)


@pytest.fixture
def ann(store: Store, now: datetime) -> Owner:
    for name, role in (("shop", Role.FRONT_END), ("eve", Role.CHECKER)):
        store.change(lambda tx, name=name, role=role: tx.clients.add(name, frozenset({role}), now))
    owner = Owner(store).enrol()
    owner.begin()
    owner.put("web")
    return owner


def row_of(store: Store, client: str) -> int:
    return store.query(lambda tx: tx.clients.find_id(client))


def look_up(
    owner: Owner, asker: str, *roles: Role, record: str = "", of: str = "ann", key: str = ""
) -> CheckFacts | None:
    digest = sha256(owner.spki("web", 1, key)).digest()
    asker_row = row_of(owner.store, asker)
    return owner.store.query(
        lambda tx: tx.vault_checkers.look_up(of, asker_row, frozenset(roles), digest, record)
    )


def found(facts: CheckFacts | None) -> list[str] | None:
    return None if facts is None else [f"{each.record}/{each.version}" for each in facts.found]


def test_only_who_is_allowed_gets_an_answer(ann: Owner, now: datetime) -> None:
    asked = lambda asker, *roles: found(look_up(ann, asker, *roles))  # noqa: E731
    assert asked("ann", Role.OWNER) == ["web/1"]
    assert asked("shop", Role.FRONT_END) is asked("eve", Role.CHECKER) is None
    assert ann.change(lambda tx: tx.vault_checkers.allow("ann", "shop", now))
    assert not ann.change(lambda tx: tx.vault_checkers.allow("ann", "shop", now))
    assert asked("shop", Role.FRONT_END) == ["web/1"]
    assert asked("eve", Role.CHECKER) is None
    assert ann.change(lambda tx: tx.vault_checkers.allow_role("ann", allowed=True))
    assert not ann.change(lambda tx: tx.vault_checkers.allow_role("ann", allowed=True))
    assert asked("eve", Role.CHECKER) == ["web/1"]
    assert asked("eve", Role.OPERATOR) is None
    assert ann.store.query(lambda tx: tx.vault_checkers.allowed("ann")) == AllowedCheckers(
        ("shop",), checkers=True
    )
    assert ann.change(lambda tx: tx.vault_checkers.disallow("ann", "shop"))
    assert not ann.change(lambda tx: tx.vault_checkers.disallow("ann", "shop"))
    ann.change(lambda tx: tx.vault_checkers.allow_role("ann", allowed=False))
    assert asked("shop", Role.FRONT_END) is asked("eve", Role.CHECKER) is None
    assert ann.store.query(lambda tx: tx.vault_checkers.allowed("ann")) == AllowedCheckers()


def test_what_does_not_get_an_answer(ann: Owner, store: Store, now: datetime) -> None:
    bob = Owner(store, "bob").enrol()
    assert look_up(ann, "ann", of="nobody") is None
    assert look_up(ann, "ann", of="\ud800") is None
    assert look_up(ann, "bob", of="bob") is None, "it has nothing in the vault"
    statement = management_statement("bob")
    bob.change(lambda tx: tx.vault_keys.register("bob", stated_key(statement), now))
    assert look_up(ann, "bob", of="bob") is None, "its management key is not confirmed"
    bob.change(lambda tx: tx.vault_keys.confirm("bob", statement.digest, "", now))
    assert found(look_up(ann, "bob", of="bob")) == []
    assert look_up(ann, "bob") is None


def test_a_record_can_be_named(ann: Owner) -> None:
    ann.put("web", 2)
    assert found(look_up(ann, "ann")) == ["web/1"]
    assert found(look_up(ann, "ann", record="web")) == ["web/1"]
    assert found(look_up(ann, "ann", record="mail")) == found(look_up(ann, "ann", record="\0")) == []
    assert found(look_up(ann, "ann", key="unknown")) == []
    facts = look_up(ann, "ann")
    assert facts is not None
    (version,) = facts.found
    assert (version.superseded, version.spki) == (True, ann.spki("web", 1))


def test_rights_end_with_the_client(ann: Owner, store: Store, now: datetime) -> None:
    ann.change(lambda tx: tx.vault_checkers.allow("ann", "shop", now))
    store.change(lambda tx: tx.clients.rename("shop", "store"))
    assert found(look_up(ann, "store")) == ["web/1"]
    assert ann.store.query(lambda tx: tx.vault_checkers.allowed("ann")).clients == ("store",)
    store.change(lambda tx: tx.clients.remove("store"))
    store.change(lambda tx: tx.clients.add("store", frozenset({Role.FRONT_END}), now))
    assert look_up(ann, "store") is None
    assert ann.store.query(lambda tx: tx.vault_checkers.allowed("ann")).clients == ()


def test_what_cannot_be_allowed(
    ann: Owner, store: Store, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotFound, match="no client 'nobody'"):
        ann.change(lambda tx: tx.vault_checkers.allow("ann", "nobody", now))
    with pytest.raises(NotFound):
        ann.change(lambda tx: tx.vault_checkers.disallow("ann", "nobody"))
    with pytest.raises(BadRequest, match="'ann' may check its own keys anyhow"):
        ann.change(lambda tx: tx.vault_checkers.allow("ann", "ann", now))
    Owner(store, "bob").enrol()
    with pytest.raises(Conflict, match="'bob' has no management key"):
        ann.change(lambda tx: tx.vault_checkers.allow("bob", "shop", now))
    monkeypatch.setattr(vault_checker_rows, "MAX_ALLOWED", 1)
    ann.change(lambda tx: tx.vault_checkers.allow("ann", "shop", now))
    with pytest.raises(BadRequest, match="ann has named 1 clients already"):
        ann.change(lambda tx: tx.vault_checkers.allow("ann", "eve", now))


# --- sums ---


def sums(owner: Owner, after: int = 0, limit: int = 100) -> list[CheckSum]:
    page = owner.store.query(lambda tx: tx.vault_check_sums.page(owner.name, after, limit))
    return list(page.items)


def counted(
    owner: Owner,
    at: datetime,
    asker: str = "shop",
    verdict: str = "MATCH",
    record: str = "web",
    count: int = 1,
) -> CheckCount:
    row = owner.store.query(lambda tx: tx.vault_checkers.owner_row(owner.name))
    return CheckCount(row, asker, row_of(owner.store, asker), record, verdict, at, count)


def test_checks_are_summed_by_asker_record_verdict_and_day(ann: Owner, now: datetime) -> None:
    version = ann.store.version()
    counts = [counted(ann, now + timedelta(minutes=each)) for each in (2, 0, 1)]
    ann.change(
        lambda tx: tx.vault_check_sums.add([*counts, counted(ann, now, verdict="MISMATCH", record="")])
    )
    ann.change(
        lambda tx: tx.vault_check_sums.add(
            [counted(ann, now + DAY), counted(ann, now, asker="eve"), counted(ann, now, count=5)]
        )
    )
    day, next_day = "2026-03-04", "2026-03-05"
    found = [(each.asker, each.record, each.verdict, each.day, each.count) for each in sums(ann)]
    assert sorted(found) == [
        ("eve", "web", "MATCH", day, 1),
        ("shop", "", "MISMATCH", day, 1),
        ("shop", "web", "MATCH", day, 8),
        ("shop", "web", "MATCH", next_day, 1),
    ]
    most = next(each for each in sums(ann) if each.count == 8)
    assert (most.first_at, most.last_at) == (now, now + timedelta(minutes=2))
    assert ann.store.version() == version
    assert [each.row for each in sums(ann)] == sorted(each.row for each in sums(ann))
    first, *rest = sums(ann)
    assert sums(ann, limit=1) == [first]
    assert sums(ann, after=first.row) == rest


def test_a_sum_takes_one_row_id(ann: Owner, now: datetime) -> None:
    for _ in range(20):
        ann.change(lambda tx: tx.vault_check_sums.add([counted(ann, now)]))
    ann.change(lambda tx: tx.vault_check_sums.add([counted(ann, now, asker="eve")]))
    first, second = sums(ann)
    assert (first.count, second.row - first.row) == (20, 1)


def test_the_name_of_an_asker_is_its_newest(ann: Owner, store: Store, now: datetime) -> None:
    ann.change(lambda tx: tx.vault_check_sums.add([counted(ann, now)]))
    store.change(lambda tx: tx.clients.rename("shop", "store"))
    ann.change(lambda tx: tx.vault_check_sums.add([counted(ann, now, asker="store")]))
    store.change(lambda tx: tx.clients.remove("store"))
    assert [(each.asker, each.count) for each in sums(ann)] == [("store", 2)]


def test_daemons_add_to_the_same_sums(make_store: Callable[[], Store], ann: Owner, now: datetime) -> None:
    counts = [counted(ann, now, verdict=verdict) for verdict in ("MATCH", "MISMATCH", "NO_ANSWER")]
    stores = [make_store() for _ in range(4)]

    def add(number: int) -> None:
        turned = counts[number % 3 :] + counts[: number % 3]
        stores[number % 4].change(lambda tx: tx.vault_check_sums.add(turned), versioned=False)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(40)))
    assert sorted((each.verdict, each.count) for each in sums(ann)) == [
        ("MATCH", 40),
        ("MISMATCH", 40),
        ("NO_ANSWER", 40),
    ]


def test_old_sums_are_removed(ann: Owner, now: datetime) -> None:
    for days in (0, 399, 400, 401, 900):
        ann.change(lambda tx, days=days: tx.vault_check_sums.add([counted(ann, now - days * DAY)]))
    assert [ann.change(lambda tx: tx.vault_check_sums.prune(now)) for _ in range(2)] == [2, 0]
    assert len(sums(ann)) == 3


def test_too_many_sums_at_once(ann: Owner, now: datetime) -> None:
    many = [counted(ann, now)] * 5_000
    ann.change(lambda tx: tx.vault_check_sums.add(many))
    different = [
        CheckCount(each.owner_row, "x", number, "", "MATCH", now) for number, each in enumerate(many[:1_001])
    ]
    with pytest.raises(InternalFault):
        ann.change(lambda tx: tx.vault_check_sums.add(different))
    assert [each.count for each in sums(ann)] == [5_000]


def test_who_has_no_right_cannot_measure_which_owners_there_are(ann: Owner, now: datetime) -> None:
    """An unknown owner, one without a management key, one that was never confirmed, and one who does not allow it."""
    Owner(ann.store, "bob").enrol()
    carl = Owner(ann.store, "carl").enrol()
    carl.management = management_statement("carl")
    carl.change(lambda tx: tx.vault_keys.register("carl", stated_key(carl.management), now))
    asker_row = row_of(ann.store, "eve")
    asked: dict[str, list[str]] = {}
    for owner in ("unknown", "bob", "carl", "ann"):
        statements = asked[owner] = []
        with ann.store.read() as tx:
            event.listen(
                tx.connection, "before_cursor_execute", lambda *given, to=statements: to.append(given[2])
            )
            assert tx.vault_checkers.look_up(owner, asker_row, frozenset({Role.CHECKER}), bytes(32)) is None
            tx.vault_checkers.owner_row(owner)
    assert asked["ann"], "something was asked"
    assert all(statements == asked["ann"] for statements in asked.values())
