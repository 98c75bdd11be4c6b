"""Counters, which are exact under concurrency, and leases, whose terms fence off late writes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from hsmd.daemon.store import Lease, Store
from hsmd.errors import ErrorCode, InternalFault, LeaseLost
from tests.support.store import NOW

HOLD = timedelta(seconds=10)
MakeStore = Callable[[], Store]


def step(store: Store, name: str = "n", by: int = 1, limit: int | None = None) -> int | None:
    return store.change(lambda tx: tx.counters.step(name, by, limit), versioned=False)


def value(store: Store, name: str = "n") -> int:
    return store.query(lambda tx: tx.counters.value(name))


def test_a_counter_stops_at_its_limit(store: Store) -> None:
    before = store.version()
    assert value(store) == 0
    assert [step(store, limit=3) for _ in range(5)] == [1, 2, 3, None, None]
    assert step(store, by=2) == 5
    assert step(store, by=2, limit=6) is None
    assert step(store, "other", by=4, limit=3) is None
    assert (value(store), value(store, "other")) == (5, 0)
    assert store.version() == before
    with pytest.raises(ValueError, match="only grows"):
        step(store, by=0)


def test_a_limit_is_exact_with_many_callers_and_several_daemons(make_store: MakeStore) -> None:
    stores = [make_store() for _ in range(3)]
    with ThreadPoolExecutor(12) as pool:
        got = list(pool.map(lambda number: step(stores[number % 3], limit=50), range(96)))
    counted = [number for number in got if number is not None]
    assert sorted(counted) == list(range(1, 51))
    assert value(stores[0]) == 50


def acquire(store: Store, holder: str, at: timedelta = timedelta()) -> Lease | None:
    return store.change(lambda tx: tx.leases.acquire("job", holder, NOW + at, HOLD), versioned=False)


def fence(store: Store, lease: Lease) -> None:
    store.change(lambda tx: tx.leases.fence(lease), versioned=False)


def test_one_holder_at_a_time_and_terms_only_grow(store: Store) -> None:
    first = acquire(store, "a")
    assert first == Lease("job", "a", 1, NOW + HOLD)
    assert acquire(store, "b") is None
    assert acquire(store, "b", HOLD - timedelta(microseconds=1)) is None
    again = acquire(store, "a")
    assert again is not None and again.term == 2
    with pytest.raises(LeaseLost):
        fence(store, first)
    fence(store, again)
    store.change(lambda tx: tx.leases.release(again), versioned=False)
    for use in (
        lambda tx: tx.leases.release(again),
        lambda tx: tx.leases.renew(again, NOW, HOLD),
        lambda tx: tx.leases.fence(again),
    ):
        with pytest.raises(LeaseLost) as lost:
            store.change(use, versioned=False)
        assert lost.value.code == ErrorCode.CONFLICT
    assert store.query(lambda tx: tx.leases.find("job")) is None
    third = acquire(store, "b")
    assert third is not None and third.term == 3


def test_an_expired_lease_counts_until_it_is_taken(store: Store) -> None:
    lease = acquire(store, "a")
    assert lease is not None
    fence(store, lease)
    lease = store.change(lambda tx: tx.leases.renew(lease, NOW + 5 * HOLD, HOLD), versioned=False)
    assert lease == Lease("job", "a", 1, NOW + 6 * HOLD)
    assert acquire(store, "b", 5 * HOLD) is None
    taken = acquire(store, "b", 6 * HOLD)
    assert taken is not None and taken.term == 2
    with pytest.raises(LeaseLost):
        store.change(lambda tx: tx.leases.renew(lease, NOW + 6 * HOLD, HOLD), versioned=False)


def test_one_of_many_gets_the_lease(make_store: MakeStore) -> None:
    stores = [make_store() for _ in range(3)]
    with ThreadPoolExecutor(9) as pool:
        for round_ in range(8):
            at = 2 * round_ * HOLD
            got = list(pool.map(lambda n, at=at: acquire(stores[n % 3], f"h{n}", at), range(9)))
            taken = [lease for lease in got if lease is not None]
            assert [lease.term for lease in taken] == [round_ + 1]


def test_a_restore_ends_every_lease_with_terms_of_its_own(
    store: Store, restored: Callable[[bytes], Store]
) -> None:
    acquire(store, "a")
    document = store.export()
    later = [acquire(store, "a") for _ in range(3)]
    new = restored(document)
    mine = acquire(new, "b")
    assert mine is not None, "it is free"
    for lease in later:
        assert lease is not None and lease.term < mine.term
        with pytest.raises(LeaseLost):
            fence(new, lease)


@pytest.mark.parametrize("held_before", [False, True])
def test_another_holder_of_the_same_term_is_fenced_off(
    store: Store, restored: Callable[[bytes], Store], held_before: bool
) -> None:
    """Terms are given out twice after a restore of a backup that does not know the lease, or was restored before."""
    if held_before:
        acquire(store, "a")
    document = store.export()
    earlier = restored(document) if held_before else store
    lease = acquire(earlier, "a")
    assert lease is not None
    fence(earlier, lease)
    new = restored(document)
    mine = acquire(new, "b")
    assert mine is not None and mine.term == lease.term
    for late in (
        lambda tx: tx.leases.fence(lease),
        lambda tx: tx.leases.renew(lease, NOW, HOLD),
        lambda tx: tx.leases.release(lease),
    ):
        with pytest.raises(LeaseLost):
            new.change(late, versioned=False)
    fence(new, mine)


def test_locks_are_taken_in_one_order(store: Store) -> None:
    store.change(lambda tx: (tx.counters.step("a"), tx.counters.step("a"), tx.counters.step("b")))
    for wrong in (
        lambda tx: (tx.counters.step("b"), tx.counters.step("a")),
        lambda tx: (tx.counters.step("a"), tx.leases.acquire("a", "h", NOW, HOLD)),
        lambda tx: (tx.events.prune(NOW), tx.events.finish(), tx.counters.step("b"), tx.leases.end("a")),
    ):
        with pytest.raises(InternalFault, match="internal fault"):
            store.change(wrong)
    assert value(store, "a") == 2
