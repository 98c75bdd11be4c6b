"""Limited grants in the store, on both databases: limits, and counts that nothing sets back."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from hsmd.daemon.backup.known_counts import KnownCounts
from hsmd.daemon.backup.recount import Recount
from hsmd.daemon.store import (
    KeyRecord,
    LimitedGrantRecord,
    Limits,
    NotCounted,
    Readers,
    Store,
    Transaction,
    WantedUse,
)
from hsmd.errors import BadRequest, Conflict, NotFound
from hsmd.protocol.roles import Role
from hsmd.purposes import AllowedNames, Purpose, expand
from hsmd.transparency.lines import event_tail
from tests.support.audit_logs import rechained
from tests.support.polling import wait_until

TLS13, TLS12, CSR = Purpose.TLS13_SERVER, Purpose.TLS12_SERVER, Purpose.X509_REQUEST
NAMES = AllowedNames.of(["*.example.com"]).to_json()
MakeKey = Callable[..., KeyRecord]


@pytest.fixture(autouse=True)
def world(store: Store, make_key: MakeKey, now: datetime) -> None:
    store.change(lambda tx: tx.keys.add(make_key("site")))
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now))
    store.change(lambda tx: tx.clients.add("web2", frozenset({Role.FRONT_END}), now))
    store.change(lambda tx: tx.clients.add("ann", frozenset({Role.OPERATOR}), now))


@pytest.fixture
def add(store: Store, now: datetime) -> Callable[..., LimitedGrantRecord]:
    def add(
        limits: Limits, client: str = "web1", purpose: Purpose = TLS13, key: str = "site"
    ) -> LimitedGrantRecord:
        store.change(lambda tx: tx.limited_grants.add(client, key, [purpose], limits, now))
        return only(store)

    return add


def only(store: Store) -> LimitedGrantRecord:
    (grant,) = store.load().limited_grants
    return grant


def use(store: Store, grant: LimitedGrantRecord, now: datetime, times: int = 1) -> list[int | NotCounted]:
    return [count(store, [wanted(grant)], now)[0] for _ in range(times)]


def wanted(grant: LimitedGrantRecord, attempt: int = 0) -> WantedUse:
    return WantedUse(grant.id, "a.example/log", attempt, grant.client, grant.key_digest, int(grant.purpose))


def count(store: Store, uses: list[WantedUse], now: datetime) -> list[int | NotCounted]:
    """The numbers, or why a use was not counted."""
    decided = store.change(lambda tx: tx.limited_grants.count(uses, now), versioned=False)
    return [use if isinstance(use, NotCounted) else use.number for use in decided]


Add = Callable[..., LimitedGrantRecord]


def test_uses_are_counted_up_to_the_limit(store: Store, add: Add, now: datetime) -> None:
    grant = add(Limits(max_uses=3, request="TICKET-17"))
    assert (grant.limits.request, grant.used, grant.left, grant.created_at) == ("TICKET-17", 0, 3, now)
    version = store.version()
    assert use(store, grant, now, 5) == [1, 2, 3, NotCounted.EXHAUSTED, NotCounted.EXHAUSTED]
    assert store.version() == version
    assert (only(store).used, only(store).left) == (3, 0)


def test_no_use_counts_at_or_after_the_end(store: Store, add: Add, now: datetime) -> None:
    grant = add(Limits(not_after=now + timedelta(seconds=1)))
    assert grant.left is None
    assert use(store, grant, now + timedelta(microseconds=999_999)) == [1]
    assert use(store, grant, now + timedelta(seconds=1)) == [NotCounted.EXPIRED]
    assert use(store, grant, now + timedelta(days=400)) == [NotCounted.EXPIRED]
    assert only(store).used == 1


def test_limits_that_are_not_given_stay(store: Store, add: Add, now: datetime) -> None:
    end = now + timedelta(hours=8)
    grant = add(Limits(end, 2, "TICKET-1"))
    use(store, grant, now)
    again = add(Limits(max_uses=5))
    assert (again.id, again.limits, again.used, again.left) == (grant.id, Limits(end, 5, "TICKET-1"), 1, 4)
    assert add(Limits(request="TICKET-2")).limits == Limits(end, 5, "TICKET-2")
    assert add(Limits(not_after=end + timedelta(hours=1))).limits.max_uses == 5
    assert add(Limits()).limits.max_uses == 5


def remove_grant(store: Store, add: Add, now: datetime, limits: Limits) -> LimitedGrantRecord:
    assert store.change(lambda tx: tx.grants.remove("web1", "site", [TLS13]))
    assert store.load().limited_grants == ()
    return add(limits)


def rename_both(store: Store, add: Add, now: datetime, limits: Limits) -> LimitedGrantRecord:
    store.change(lambda tx: tx.clients.rename("web1", "front"))
    store.change(lambda tx: tx.keys.rename("site", "shop"))
    return add(limits, "front", key="shop")


def remove_client(store: Store, add: Add, now: datetime, limits: Limits) -> LimitedGrantRecord:
    store.change(lambda tx: tx.clients.remove("web1"))
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now))
    return add(limits)


def rename_and_remove_client(store: Store, add: Add, now: datetime, limits: Limits) -> LimitedGrantRecord:
    store.change(lambda tx: tx.clients.rename("web1", "gone"))
    store.change(lambda tx: tx.clients.remove("gone"))
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now))
    return add(limits)


def adopt_key_again(store: Store, add: Add, now: datetime, limits: Limits) -> LimitedGrantRecord:
    key = store.load().keys[0]
    store.change(lambda tx: tx.keys.remove("site"))
    store.change(lambda tx: tx.keys.add(key))
    return add(limits)


def all_at_once(store: Store, add: Add, now: datetime, limits: Limits) -> LimitedGrantRecord:
    key = store.load().keys[0]
    store.change(lambda tx: tx.keys.remove("site"))
    for _ in range(3):
        store.change(lambda tx: tx.clients.rename("web1", "gone"))
        store.change(lambda tx: tx.clients.remove("gone"))
        store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now))
    store.change(lambda tx: tx.keys.add(key))
    return add(limits)


@pytest.mark.parametrize(
    "undo", [remove_grant, rename_both, remove_client, rename_and_remove_client, adopt_key_again, all_at_once]
)
def test_nothing_gives_a_use_back(
    store: Store, add: Add, now: datetime, undo: Callable[[Store, Add, datetime, Limits], LimitedGrantRecord]
) -> None:
    use(store, add(Limits(max_uses=3)), now, 2)
    with pytest.raises(
        BadRequest, match=r"^max_uses: 2 uses of site by web1 for tls13-server are counted already"
    ):
        add(Limits(max_uses=2))
    grant = undo(store, add, now, Limits(max_uses=3))
    assert (grant.used, grant.left) == (2, 1)
    assert use(store, grant, now, 2) == [3, NotCounted.EXHAUSTED]


def test_counts_are_separate_for_each_client_and_purpose(store: Store, now: datetime) -> None:
    limits = Limits(max_uses=1)
    store.change(lambda tx: tx.limited_grants.add("web1", "site", expand(["tls-server"]), limits, now))
    store.change(lambda tx: tx.limited_grants.add("web2", "site", [TLS13], limits, now))
    grants = store.load().limited_grants
    assert [(each.client, each.purpose) for each in grants] == [
        ("web1", TLS13),
        ("web1", TLS12),
        ("web2", TLS13),
    ]
    for grant in grants:
        assert use(store, grant, now, 2) == [1, NotCounted.EXHAUSTED]


def test_a_client_that_takes_over_a_free_name_counts_for_itself(
    store: Store, add: Add, now: datetime
) -> None:
    """web1 lives on as front: its later uses do not move the count of another client of its old name."""
    first = add(Limits(max_uses=3))
    use(store, first, now)
    store.change(lambda tx: tx.clients.rename("web1", "front"))
    store.change(lambda tx: tx.clients.rename("web2", "web1"))
    store.change(lambda tx: tx.limited_grants.add("web1", "site", [TLS13], Limits(max_uses=3), now))
    other = next(each for each in store.load().limited_grants if each.client == "web1")
    assert other.used == 1
    assert use(store, other, now) == [2]
    assert use(store, first, now) == [2]


def test_a_removed_grant_counts_nothing(store: Store, add: Add, now: datetime) -> None:
    grant = add(Limits(max_uses=3))
    store.change(lambda tx: tx.grants.remove("web1", "site"))
    assert use(store, grant, now) == [NotCounted.REMOVED]
    again = add(Limits(max_uses=3))
    assert use(store, grant, now) == [NotCounted.REMOVED]
    store.change(lambda tx: tx.clients.remove("web1"))
    assert use(store, again, now) == [NotCounted.REMOVED]


def test_after_a_restore_the_count_is_held(store: Store, add: Add, tmp_path: Path, now: datetime) -> None:
    use(store, add(Limits(max_uses=9)), now, 2)
    document = store.export()
    restored = Store(f"sqlite:///{tmp_path}/restored.db")
    restored.restore(document)
    grant = only(restored)
    assert (grant.used, grant.held, grant.left) == (2, True, 0)
    assert use(restored, grant, now) == [NotCounted.HELD]

    def state_limit(limits: Limits) -> None:
        restored.change(lambda tx: tx.limited_grants.add("web1", "site", [TLS13], limits, now))

    state_limit(Limits(not_after=now + timedelta(days=1)))
    assert use(restored, grant, now) == [NotCounted.HELD]
    with pytest.raises(BadRequest, match="2 uses"):
        state_limit(Limits(max_uses=2))
    state_limit(Limits(max_uses=4))
    assert use(restored, grant, now, 3) == [3, 4, NotCounted.EXHAUSTED]
    restored.close()


def test_after_a_restore_counts_rise_to_what_logs_tell_and_stay_held(
    store: Store, add: Add, restored: Callable[[bytes], Store], tmp_path: Path, now: datetime
) -> None:
    grant = add(Limits(max_uses=9))
    use(store, grant, now, 2)
    document = store.export()
    numbers = use(store, grant, now, 3)
    key = grant.key_digest.hex()
    tails = [
        event_tail("grant.used", "web1", {"attempt": 0, "grant": grant.id, "key": key, "number": number})
        for number in numbers
    ]
    (tmp_path / "log").write_bytes(b"".join(rechained(tails)))
    (tmp_path / "old").write_bytes(b"".join(rechained(tails[:1])))
    again = restored(document)

    def recounted(log: str) -> int:
        recount = Recount(KnownCounts.of(document))
        recount.read(tmp_path / log)
        return recount.apply(again).grants

    assert [recounted("log"), recounted("log"), recounted("old")] == [1, 0, 0]
    assert (only(again).used, only(again).held) == (5, True)
    with pytest.raises(BadRequest, match="5 uses"):
        again.change(lambda tx: tx.limited_grants.add("web1", "site", [TLS13], Limits(max_uses=5), now))
    again.change(lambda tx: tx.limited_grants.add("web1", "site", [TLS13], Limits(max_uses=6), now))
    assert use(again, grant, now, 2) == [6, NotCounted.EXHAUSTED]


def test_removing_a_held_grant_or_its_client_does_not_release_it(
    store: Store, add: Add, tmp_path: Path, now: datetime
) -> None:
    use(store, add(Limits(max_uses=9)), now, 2)
    restored = Store(f"sqlite:///{tmp_path}/restored.db")
    restored.restore(store.export())
    restored.change(lambda tx: tx.clients.remove("web1"))
    restored.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now))
    end = Limits(not_after=now + timedelta(days=1))
    restored.change(lambda tx: tx.limited_grants.add("web1", "site", [TLS13], end, now))
    assert (only(restored).used, only(restored).held) == (2, True)
    restored.close()


def test_limited_and_unlimited_exclude_each_other(store: Store, add: Add, now: datetime) -> None:
    add(Limits(max_uses=3))
    with pytest.raises(Conflict, match=r"web1 may use site for tls13-server within limits already"):
        store.change(lambda tx: tx.grants.add("web1", "site", expand(["tls-server"])))
    store.change(lambda tx: tx.grants.add("web1", "site", [TLS12]))
    with pytest.raises(Conflict, match=r"web1 may use site for tls12-server without limits already"):
        store.change(
            lambda tx: tx.limited_grants.add("web1", "site", expand(["tls-server"]), Limits(max_uses=3), now)
        )
    both = store.query(lambda tx: tx.grants.get("web1", "site"))
    assert (both.purposes, [each.purpose for each in both.limited]) == ({TLS12}, [TLS13])
    assert store.query(lambda tx: tx.grants.page("", "", "", 10)).items == (both,)
    assert store.change(lambda tx: tx.grants.remove("web1", "site"))
    assert not store.change(lambda tx: tx.grants.remove("web1", "site"))
    assert store.query(lambda tx: tx.grants.page("", "", "", 10)).items == ()


def test_pages_hold_both_kinds_in_one_order(store: Store, make_key: MakeKey, now: datetime) -> None:
    for key in ("a", "b", "c"):
        store.change(lambda tx, key=key: tx.keys.add(make_key(key)))
    for client in ("web1", "web2"):
        store.change(lambda tx, client=client: tx.grants.add(client, "b", [TLS13]))
        for key in ("a", "c"):
            store.change(
                lambda tx, client=client, key=key: tx.limited_grants.add(
                    client, key, [TLS13], Limits(max_uses=3), now
                )
            )
    seen, after = [], ""
    while True:
        page = store.query(lambda tx: tx.grants.page("", "", after, 2))
        seen += [(each.client, each.key, bool(each.purposes), len(each.limited)) for each in page.items]
        if not page.more:
            break
        after = f"{page.items[-1].client}/{page.items[-1].key}"
    expected = [(key, key == "b", int(key != "b")) for key in ("a", "b", "c")]
    assert seen == [(client, *each) for client in ("web1", "web2") for each in expected]
    assert [each.key for each in store.query(lambda tx: tx.grants.page("web2", "c", "", 2)).items] == ["c"]


@pytest.mark.parametrize(
    ("purposes", "limits", "says"),
    [
        (["tls13-server"], Limits(), "^max_uses: a limited grant needs a limit"),
        (["tls13-server"], Limits(request="TICKET-17"), "^max_uses: a limited grant needs a limit"),
        (
            ["tls13-server"],
            Limits(max_uses=1, constraints=NAMES),
            "^names: they limit x509-request only, not tls13",
        ),
        (["x509-request"], Limits(max_uses=1), "^names: x509-request is granted with allowed names only"),
        (["x509-request"], Limits(constraints="{}"), "^constraints: "),
        (["x509-self-signed"], Limits(max_uses=1), "cannot be granted"),
        (["tls13-client"], Limits(max_uses=1), "the key's purposes, fixed as"),
    ],
)
def test_limits_that_make_no_sense_are_refused(
    store: Store, now: datetime, purposes: list[str], limits: Limits, says: str
) -> None:
    with pytest.raises(BadRequest, match=says):
        store.change(lambda tx: tx.limited_grants.add("web1", "site", expand(purposes), limits, now))
    assert store.load().limited_grants == ()


def test_a_grant_that_begins_after_its_end_is_refused(store: Store, add: Add, now: datetime) -> None:
    with pytest.raises(BadRequest, match=r"^not_after: 2026-03-04 05:06:07 UTC has passed"):
        add(Limits(not_after=now))


def test_only_front_ends_hold_limited_grants(add: Add) -> None:
    with pytest.raises(BadRequest, match="only a front end can hold a grant"):
        add(Limits(max_uses=1), client="ann")
    with pytest.raises(NotFound):
        add(Limits(max_uses=1), client="unknown")


def test_names_are_kept(store: Store, add: Add, now: datetime) -> None:
    grant = add(Limits(constraints=NAMES), purpose=CSR)
    assert grant.limits.constraints == '{"names":["*.example.com"]}'
    assert use(store, grant, now, 2) == [1, 2]
    with pytest.raises(BadRequest, match="allowed names only"):
        store.change(lambda tx: tx.grants.add("web1", "site", [CSR]))


def test_many_daemons_never_count_beyond_the_limit(
    make_store: Callable[[], Store], add: Add, now: datetime
) -> None:
    grant = add(Limits(max_uses=10))
    stores = [make_store() for _ in range(4)]
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda n: use(stores[n % 4], grant, now)[0], range(48)))
    numbers = sorted(each for each in results if isinstance(each, int))
    assert numbers == list(range(1, 11))
    assert only(stores[0]).used == 10


REMOVALS: dict[str, Callable[[Transaction], object]] = {
    "grant": lambda tx: tx.grants.remove("web1", "site"),
    "role": lambda tx: tx.clients.remove_role("web1", Role.FRONT_END),
    "client": lambda tx: tx.clients.remove("web1"),
    "key": lambda tx: tx.keys.remove("site"),
}


@pytest.mark.parametrize("removal", REMOVALS.values(), ids=list(REMOVALS))
def test_uses_without_end_prevent_no_removal(
    make_store: Callable[[], Store], now: datetime, removal: Callable[[Transaction], object]
) -> None:
    """While it is being removed the client uses its grants at six daemons, several in one transaction."""
    store, patience = make_store(), time.monotonic() + 20
    store.change(lambda tx: tx.clients.add_role("web1", Role.AUDITOR))
    for purpose in (TLS12, TLS13):
        with store.write() as tx:
            tx.limited_grants.add("web1", "site", [purpose], Limits(max_uses=10**9), now)
    uses = [wanted(grant) for grant in store.load().limited_grants] * 2
    counted: list[int | NotCounted] = []

    def count_on(daemon: Store) -> None:
        while NotCounted.REMOVED not in counted and time.monotonic() < patience:
            counted.extend(count(daemon, uses, now))

    with ThreadPoolExecutor(6) as pool:
        counting = [pool.submit(count_on, make_store()) for _ in range(6)]
        wait_until(lambda: len(counted) > 100, "uses to be counted")
        store.change(removal)
        removed_in_time = time.monotonic() < patience
        for each in counting:
            each.result(30)
    assert removed_in_time
    assert store.load().limited_grants == ()


@pytest.mark.parametrize("change", ["remove", "limit", "client"])
def test_a_change_that_was_committed_first_counts(
    make_store: Callable[[], Store], add: Add, now: datetime, change: str
) -> None:
    """The counting statement begins while the change is open, and decides by what was committed."""
    grant = add(Limits(max_uses=5))
    first, second = make_store(), make_store()
    use(first, grant, now, 2)
    with ThreadPoolExecutor(1) as pool:
        with first.write() as tx:
            if change == "remove":
                tx.grants.remove("web1", "site")
            elif change == "client":
                tx.clients.remove("web1")
            else:
                tx.limited_grants.add(
                    "web1", "site", [TLS13], Limits(not_after=now + timedelta(seconds=1)), now
                )
            counting = pool.submit(use, second, grant, now + timedelta(seconds=2))
            waits(first, counting.done)
        expected = NotCounted.EXPIRED if change == "limit" else NotCounted.REMOVED
        assert counting.result(30) == [expected]


def test_uses_do_not_overtake_a_change_that_waits(
    make_store: Callable[[], Store], add: Add, now: datetime
) -> None:
    """Otherwise daemons that count uses in turn would put off the removal of the grant without end."""
    grant = add(Limits(max_uses=1))
    use(make_store(), grant, now)
    first, operator, second = make_store(), make_store(), make_store()
    with ThreadPoolExecutor(2) as pool:
        with first.write(versioned=False) as tx:
            assert tx.limited_grants.count([wanted(grant)], now) == [NotCounted.EXHAUSTED]
            removing = pool.submit(operator.change, lambda tx: tx.grants.remove("web1", "site"))
            waits(first, removing.done)
            counting = pool.submit(use, second, grant, now)
            waits(first, counting.done, others=2)
        assert removing.result(30)
        assert counting.result(30)[0] in (NotCounted.EXHAUSTED, NotCounted.REMOVED)


def waits(store: Store, done: Callable[[], bool], others: int = 1) -> None:
    """Return when so many other transactions wait: on PostgreSQL the server says so, on SQLite this one has begun."""
    if "postgresql" not in repr(store):
        time.sleep(0)
        assert not done()
        return
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"

    def waiting() -> bool:
        return bool(store.query(lambda tx: tx.connection.exec_driver_sql(query).scalar()) == others)

    wait_until(waiting, "the counting statement to wait")


def test_without_its_role_a_front_end_loses_its_limited_grants_and_keeps_the_counts(
    store: Store, add: Add, now: datetime
) -> None:
    use(store, add(Limits(max_uses=3)), now, 2)
    store.change(lambda tx: tx.clients.add_role("web1", Role.OWNER))
    store.change(lambda tx: tx.clients.remove_role("web1", Role.FRONT_END))
    assert store.load().limited_grants == ()
    store.change(lambda tx: tx.clients.add_role("web1", Role.FRONT_END))
    assert add(Limits(max_uses=3)).used == 2


def test_the_last_use_is_told_to_operators_auditors_and_the_client(
    store: Store, add: Add, now: datetime
) -> None:
    grant = add(Limits(max_uses=2, request="TICKET-17"))
    readers = Readers(frozenset({Role.OPERATOR}))
    use(store, grant, now)
    assert store.query(lambda tx: tx.events.page(readers, None)).events == ()
    use(store, grant, now, 2)
    client = Readers(clients=frozenset({store.query(lambda tx: tx.clients.find_id("web1"))}))
    other = Readers(clients=frozenset({store.query(lambda tx: tx.clients.find_id("web2"))}))
    for reader, count in ((readers, 1), (Readers(frozenset({Role.AUDITOR})), 1), (client, 1), (other, 0)):
        page = store.query(lambda tx, reader=reader: tx.events.page(reader, None))
        assert len(page.events) == count
    (event,) = store.query(lambda tx: tx.events.page(readers, None)).events
    assert (event.kind, event.subject) == ("grant.exhausted", "site")
    assert event.payload == {
        "client": "web1", "key": grant.key_digest.hex(), "purpose": "tls13-server",
        "grant": grant.id, "max_uses": 2, "request": "TICKET-17",
    }  # fmt: skip
    use(store, add(Limits(max_uses=3)), now)
    assert len(store.query(lambda tx: tx.events.page(readers, None)).events) == 2
