"""Numbers of events follow commits, and writes of the ledger neither wait for other changes nor block them for long."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Row, create_engine, update

from hsmd.daemon.store import Readers, Store, Transaction
from hsmd.daemon.store.event_rows import Events
from hsmd.daemon.store.tables import ledger
from hsmd.protocol.cursor import Cursor
from hsmd.protocol.roles import Role
from tests.support.polling import wait_until
from tests.support.postgresql import Cluster
from tests.support.store import NOW

MakeStore = Callable[[], Store]
WRITERS, EVENTS = 8, 12
READERS = Readers(roles=frozenset({Role.OPERATOR}))


def append(tx: Transaction, subject: str, dedup: str = "") -> None:
    tx.events.append("token.away", subject, readers=READERS, payload={}, now=NOW, dedup=dedup)


def write_slowly(store: Store, writer: int, label: str) -> list[str]:
    """Append events in transactions of all kinds, each of which takes a while between its last statement and its commit."""
    draw = random.Random(writer)
    subjects = []
    for number in range(EVENTS):
        subject = f"{label}.{writer}.{number}"

        def action(tx: Transaction, subject: str = subject, number: int = number) -> None:
            if number % 3 == 1:
                tx.clients.add(subject, frozenset({Role.FRONT_END}), NOW)
            if number % 3 == 2:
                tx.leases.acquire("job", str(writer), NOW + number * timedelta(days=1), timedelta(hours=1))
            tx.counters.step("all" if number % 4 == 3 else f"of {writer}")
            append(tx, subject)
            tx.events.finish()
            time.sleep(draw.uniform(0.0, 0.004))

        store.change(action, versioned=number % 2 == 1)
        subjects.append(subject)
    return subjects


def follow(store: Store, writing: Callable[[], bool]) -> list[str]:
    """What a reader gets that goes on from the newest event it has seen, while others write."""
    seen: list[str] = []
    since = store.query(lambda tx: tx.events.head())
    going_on = True
    while going_on:
        going_on = writing()
        while True:
            page = store.query(lambda tx, since=since: tx.events.page(READERS, since, 5))
            assert not page.missed
            numbers = [event.cursor.number for event in page.events]
            assert numbers == sorted(numbers)
            seen += [event.subject for event in page.events]
            since = page.events[-1].cursor if page.events else since
            if not page.more:
                break
    return seen


def written_and_read(make_store: MakeStore, label: str = "a") -> tuple[list[str], list[str]]:
    """What eight writers on three daemons append, and what a reader gets meanwhile."""
    *stores, reader = [make_store() for _ in range(4)]
    with ThreadPoolExecutor(WRITERS + 1) as pool:
        started = threading.Event()
        writers: list[Future[list[str]]] = []

        def writing() -> bool:
            started.set()
            return not writers or not all(writer.done() for writer in writers)

        reading = pool.submit(follow, reader, writing)
        started.wait(10)
        writers += [pool.submit(write_slowly, stores[number % 3], number, label) for number in range(WRITERS)]
        written = [subject for writer in writers for subject in writer.result(120)]
        return written, reading.result(120)


def test_a_reader_misses_no_event_of_many_slow_writers(make_store: MakeStore) -> None:
    written, read = written_and_read(make_store)
    assert sorted(read) == sorted(written)
    assert len(set(read)) == WRITERS * EVENTS
    store = make_store()
    assert store.query(lambda tx: tx.events.head()).number == WRITERS * EVENTS, "no number is skipped"
    assert store.query(lambda tx: tx.counters.value("all")) == WRITERS * EVENTS // 4


@pytest.fixture
def url(cluster: Cluster) -> str:
    """A database on PostgreSQL: on SQLite there is one writer at a time anyhow."""
    database = f"order_{time.monotonic_ns()}"
    cluster.run(f"CREATE DATABASE {database}")
    return cluster.url(database)


@pytest.fixture
def on_postgresql(url: str) -> Iterator[MakeStore]:
    """Makes stores on that database."""
    made: list[Store] = []

    def make() -> Store:
        made.append(Store(url))
        return made[-1]

    make().migrate()
    yield make
    for store in made:
        store.close()


@pytest.fixture
def numbers_of_a_sequence(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Numbers are taken in a transaction of their own, as those of a sequence are."""
    engine = create_engine(url)

    def advance(self: Events, by: int) -> tuple[int, str]:
        change = update(ledger).values(last=ledger.c.last + by).returning(ledger.c.last, ledger.c.epoch)
        with engine.begin() as connection:
            row: Row[Any] = connection.execute(change).one()
        return row.last, row.epoch

    monkeypatch.setattr(Events, "_advance", advance)
    yield
    engine.dispose()


@pytest.mark.usefixtures("numbers_of_a_sequence")
def test_with_numbers_of_a_sequence_a_reader_would_miss_events(on_postgresql: MakeStore) -> None:
    """The control of the test above."""
    for label in "abcdefgh":
        written, read = written_and_read(on_postgresql, label)
        assert set(read) <= set(written)
        if len(read) < len(written):
            return
    pytest.fail("numbers that do not follow commits were not noticed")


def in_the_middle(
    pool: ThreadPoolExecutor, store: Store, action: Callable[[Transaction], object], *, versioned: bool
) -> tuple[threading.Event, Future[None]]:
    """Begin a write that commits when the returned event is set."""
    inside, go = threading.Event(), threading.Event()

    def wait(tx: Transaction) -> None:
        action(tx)
        inside.set()
        assert go.wait(10)

    future = pool.submit(store.change, wait, versioned=versioned)
    assert inside.wait(10)
    return go, future


def test_events_and_changes_of_the_contents_do_not_wait_for_each_other(on_postgresql: MakeStore) -> None:
    slow, quick = on_postgresql(), on_postgresql()
    with ThreadPoolExecutor(1) as pool:
        for versioned in (True, False):
            # It appends too: the ledger is locked only when the transaction ends.
            go, future = in_the_middle(pool, slow, lambda tx: append(tx, "slow"), versioned=versioned)
            try:
                quick.change(lambda tx: append(tx, "quick"), versioned=not versioned)
            finally:
                go.set()
            future.result(10)
    page = quick.query(lambda tx: tx.events.page(READERS, None))
    assert [event.subject for event in page.events] == ["quick", "slow", "quick", "slow"]


def test_a_writer_waits_for_the_commit_of_the_one_before(on_postgresql: MakeStore) -> None:
    first, second, reader = on_postgresql(), on_postgresql(), on_postgresql()
    with ThreadPoolExecutor(2) as pool:
        go, future = in_the_middle(
            pool, first, lambda tx: (append(tx, "1", "k"), tx.events.finish()), versioned=False
        )
        other = pool.submit(
            second.change, lambda tx: (append(tx, "again", "k"), append(tx, "2")), versioned=False
        )
        wait_until(lambda: waiting_for_locks(reader) == 1, "the other waits for the ledger", 10)
        assert reader.query(lambda tx: tx.events.page(READERS, None)).events == ()
        go.set()
        future.result(10)
        other.result(10)
    page = reader.query(lambda tx: tx.events.page(READERS, None))
    assert [(event.subject, event.cursor.number) for event in page.events] == [("1", 1), ("2", 2)]
    assert page.cursor == Cursor(page.cursor.epoch, 2), "the number of the key that was there is used again"


def waiting_for_locks(store: Store) -> int:
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return store.query(lambda tx: tx.connection.exec_driver_sql(query).scalar_one())
