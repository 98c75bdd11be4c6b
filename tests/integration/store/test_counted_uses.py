"""Counted uses that the store keeps until their daemon has them in its log, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from hsmd.daemon.store import CountedUse, KeyRecord, Limits, NotCounted, Readers, Store, UseId, WantedUse
from hsmd.errors import InternalFault
from hsmd.protocol.roles import Role
from hsmd.purposes import Purpose
from tests.support.polling import wait_until

TLS13 = Purpose.TLS13_SERVER
A, B = "a.example/log", "b.example/log"


@pytest.fixture(autouse=True)
def grant_ids(store: Store, make_key: Callable[..., KeyRecord], now: datetime) -> tuple[int, int]:
    """Of web1 with 5 uses, and of web2 with 2."""
    store.change(lambda tx: tx.keys.add(make_key("site")))
    for client, uses in (("web1", 5), ("web2", 2)):
        store.change(lambda tx, client=client: tx.clients.add(client, frozenset({Role.FRONT_END}), now))
        store.change(
            lambda tx, client=client, uses=uses: tx.limited_grants.add(
                client, "site", [TLS13], Limits(max_uses=uses), now
            )
        )
    first, second = store.load().limited_grants
    return first.id, second.id


def wanted(grant: int, attempt: int, origin: str = A) -> WantedUse:
    return WantedUse(grant, origin, attempt, f"web{grant}", b"k" * 32, int(TLS13))


def count(store: Store, *uses: WantedUse, now: datetime) -> list[CountedUse | NotCounted]:
    return store.change(lambda tx: tx.limited_grants.count(uses, now), versioned=False)


def kept(store: Store, origin: str = A) -> list[CountedUse]:
    return store.change(lambda tx: tx.counted_uses.all_of(origin), versioned=False)


def forget(store: Store, *uses: UseId) -> None:
    store.change(lambda tx: tx.counted_uses.remove(uses), versioned=False)


def test_a_use_is_kept_with_its_count_until_it_is_removed(
    store: Store, grant_ids: tuple[int, int], now: datetime
) -> None:
    grant, other = grant_ids
    first, of_other = count(store, wanted(grant, 7), wanted(other, 9), now=now)
    (second,) = count(store, wanted(grant, 3, B), now=now)
    assert first == CountedUse(wanted(grant, 7), 1, now)
    assert second == CountedUse(wanted(grant, 3, B), 2, now)
    assert (kept(store), kept(store, B)) == ([first, of_other], [second])
    forget(store, (grant, 1), (grant, 5))
    assert (kept(store), kept(store, B)) == ([of_other], [second])


def test_a_count_that_is_rolled_back_keeps_nothing(
    store: Store, grant_ids: tuple[int, int], now: datetime
) -> None:
    with pytest.raises(RuntimeError), store.write(versioned=False) as tx:
        assert tx.limited_grants.count([wanted(grant_ids[0], 1)], now) != []
        raise RuntimeError
    assert kept(store) == []
    assert [grant.used for grant in store.load().limited_grants] == [0, 0]


def test_uses_stay_when_grant_client_and_key_are_removed(
    store: Store, grant_ids: tuple[int, int], now: datetime
) -> None:
    count(store, wanted(grant_ids[0], 1), now=now)
    store.change(lambda tx: tx.clients.remove("web1"))
    store.change(lambda tx: tx.keys.remove("site"))
    assert [use.number for use in kept(store)] == [1]


def test_each_use_of_a_batch_is_decided_on_its_own(
    store: Store, grant_ids: tuple[int, int], now: datetime
) -> None:
    """Web1 has 5 uses and web2 has 2: what fits is counted, in order, whatever else is in the batch."""
    grant, other = grant_ids

    def numbers(*uses: WantedUse) -> list[int | NotCounted]:
        decided = count(store, *uses, now=now)
        for use, result in zip(uses, decided, strict=True):
            assert isinstance(result, NotCounted) or result.wanted == use
        return [use if isinstance(use, NotCounted) else use.number for use in decided]

    gone = NotCounted.EXHAUSTED
    assert numbers(*(wanted(each, at) for at, each in enumerate([other, grant, other, grant, other]))) == [
        1, 1, 2, 2, gone,
    ]  # fmt: skip
    assert numbers(wanted(grant, 10), wanted(404, 11), wanted(grant, 12)) == [3, NotCounted.REMOVED, 4]
    assert numbers(*(wanted(grant, at) for at in range(20, 23))) == [5, gone, gone]
    assert numbers(wanted(grant, 30), wanted(other, 31)) == [gone, gone]
    assert len(kept(store)) == 7
    kinds = [event.kind for event in store.query(lambda tx: tx.events.page(_operators(), None)).events]
    assert kinds == ["grant.exhausted"] * 2


def _operators() -> Readers:
    return Readers(frozenset({Role.OPERATOR}))


def test_uses_that_no_log_has_are_counted_by_grant_after_a_while(
    store: Store, grant_ids: tuple[int, int], now: datetime
) -> None:
    grant, other = grant_ids
    count(store, wanted(grant, 1), wanted(grant, 2), wanted(other, 3), now=now)
    later = now + timedelta(seconds=1)
    assert store.query(lambda tx: tx.counted_uses.left_over([grant, other], later)) == {grant: 2, other: 1}
    assert store.query(lambda tx: tx.counted_uses.left_over([other], later)) == {other: 1}
    assert store.query(lambda tx: tx.counted_uses.left_over([grant, other], now)) == {}


def test_a_restored_store_keeps_no_uses_of_the_old_one(
    store: Store, grant_ids: tuple[int, int], tmp_path: Path, now: datetime
) -> None:
    count(store, wanted(grant_ids[0], 1), now=now)
    restored = Store(f"sqlite:///{tmp_path}/restored.db")
    restored.restore(store.export())
    assert (kept(restored), len(kept(store))) == ([], 1)
    restored.close()


def test_a_commit_that_is_under_way_is_waited_for(
    make_store: Callable[[], Store], grant_ids: tuple[int, int], now: datetime
) -> None:
    """The connection of a process that was killed may commit later; its use is not missed."""
    first, second = make_store(), make_store()
    with ThreadPoolExecutor(1) as pool:
        with first.write(versioned=False) as tx:
            tx.limited_grants.count([wanted(grant_ids[0], 1)], now)
            tx.finish()
            looking = pool.submit(kept, second)
            waits(first, looking.done)
        assert [use.number for use in looking.result(30)] == [1]


def waits(store: Store, done: Callable[[], bool]) -> None:
    """Return when the other transaction waits; on SQLite it cannot begin."""
    if "postgresql" not in repr(store):
        assert not done()
        return
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"

    def waiting() -> bool:
        return bool(store.query(lambda tx: tx.connection.exec_driver_sql(query).scalar()))

    wait_until(waiting, "the other transaction to wait")


def test_daemons_that_count_settle_and_exhaust_at_once_do_not_wait_in_a_circle(
    make_store: Callable[[], Store], grant_ids: tuple[int, int], now: datetime
) -> None:
    stores = [make_store() for _ in range(4)]

    def work(number: int) -> None:
        store, origin = stores[number % 4], f"{number % 4}.example/log"
        if number % 3 == 0:
            with store.write(versioned=False) as tx:
                known = {use.id for use in tx.counted_uses.all_of(origin)}
                tx.counted_uses.remove(known)
        else:
            pair = grant_ids if number % 2 else grant_ids[::-1]
            count(store, *(wanted(grant, number, origin) for grant in pair), now=now)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(60)))
    assert [grant.used for grant in stores[0].load().limited_grants] == [5, 2]


def test_a_grant_is_not_locked_after_what_others_lock_behind_it(
    store: Store, grant_ids: tuple[int, int], now: datetime
) -> None:
    with pytest.raises(InternalFault), store.write(versioned=False) as tx:
        tx.counters.step("uses")
        tx.limited_grants.count([wanted(grant_ids[0], 1)], now)
    with pytest.raises(InternalFault), store.write() as tx:
        tx.limited_grants.count([wanted(grant_ids[0], 1)], now)
        tx.clients.remove("web1")
    assert [grant.used for grant in store.load().limited_grants] == [0, 0]
