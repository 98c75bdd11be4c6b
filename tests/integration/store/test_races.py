"""Several threads and several daemons that use one database at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from hsmd.daemon.store import CredentialRecord, KeyRecord, Store
from hsmd.errors import HsmdError
from hsmd.protocol.roles import Role
from hsmd.purposes import Purpose

ROUNDS = 8
MakeStore = Callable[[], Store]
MakeKey = Callable[..., KeyRecord]


def race(*actions: Callable[[], object]) -> list[str]:
    """Run all actions at once; return the class name of each error, "done" for success, in order."""
    barrier = threading.Barrier(len(actions))

    def run(action: Callable[[], object]) -> str:
        barrier.wait(10)
        try:
            action()
        except HsmdError as error:
            return type(error).__name__
        return "done"

    with ThreadPoolExecutor(len(actions)) as pool:
        return list(pool.map(run, actions))


def test_one_of_two_gets_the_name(make_store: MakeStore, make_key: MakeKey, now: datetime) -> None:
    one, other = make_store(), make_store()
    for number in range(ROUNDS):
        key = f"k{number}"
        outcome = race(
            lambda k=key: one.change(lambda tx: tx.keys.add(make_key(k))),
            lambda k=key: other.change(lambda tx: tx.keys.add(make_key(k, seed=k + "'"))),
        )
        assert sorted(outcome) == ["Conflict", "done"]
        client = f"c{number}"
        outcome = race(
            *[lambda c=client: one.change(lambda tx: tx.clients.add(c, frozenset({Role.FRONT_END}), now))] * 3
        )
        assert sorted(outcome) == ["Conflict", "Conflict", "done"]


def test_one_of_two_gets_the_credential(
    make_store: MakeStore, make_credential: Callable[[str], CredentialRecord], now: datetime
) -> None:
    one, other = make_store(), make_store()
    for number in range(ROUNDS):
        credential = make_credential(f"f{number}")
        outcome = race(
            lambda n=number, c=credential: one.change(
                lambda tx: tx.clients.add(f"a{n}", frozenset({Role.FRONT_END}), now, c)
            ),
            lambda n=number, c=credential: other.change(
                lambda tx: tx.clients.add(f"b{n}", frozenset({Role.FRONT_END}), now, c)
            ),
        )
        assert sorted(outcome) == ["Conflict", "done"]
    assert len(one.load().clients) == ROUNDS


def test_a_grant_never_outlives_a_removal(make_store: MakeStore, make_key: MakeKey, now: datetime) -> None:
    one, other = make_store(), make_store()
    for number in range(ROUNDS):
        client, key = f"c{number}", f"k{number}"
        one.change(lambda tx: tx.clients.add(client, frozenset({Role.FRONT_END}), now))
        one.change(lambda tx: tx.keys.add(make_key(key)))
        remove = (
            (lambda c=client: other.change(lambda tx: tx.clients.remove(c)))
            if number % 2
            else (lambda k=key: other.change(lambda tx: tx.keys.remove(k)))
        )
        outcome = race(
            lambda c=client, k=key: one.change(lambda tx: tx.grants.add(c, k, [Purpose.TLS13_SERVER])), remove
        )
        assert outcome[0] in ("done", "NotFound")
        assert outcome[1] == "done"
        one.load()
    assert one.load().grants == ()


def test_a_role_is_checked_against_the_client_that_gets_the_grant(
    make_store: MakeStore, make_key: MakeKey, now: datetime
) -> None:
    one, other = make_store(), make_store()
    one.change(lambda tx: tx.keys.add(make_key("site")))

    def becomes_operator() -> None:
        other.change(lambda tx: tx.clients.remove("ann"))
        other.change(lambda tx: tx.clients.add("ann", frozenset({Role.OPERATOR}), now))

    for _ in range(ROUNDS):
        one.change(lambda tx: tx.clients.add("ann", frozenset({Role.FRONT_END}), now))
        race(
            lambda: one.change(lambda tx: tx.grants.add("ann", "site", [Purpose.TLS13_SERVER])),
            becomes_operator,
        )
        assert one.query(lambda tx: tx.clients.get("ann")).roles == {Role.OPERATOR}
        assert one.load().grants == ()
        one.change(lambda tx: tx.clients.remove("ann"))


def test_no_write_is_lost_and_each_counts_once(make_store: MakeStore, now: datetime) -> None:
    stores = [make_store() for _ in range(4)]
    before = stores[0].version()

    def add(number: int) -> None:
        for round_ in range(ROUNDS):
            stores[number].change(
                lambda tx: tx.clients.add(f"c{number}-{round_}", frozenset({Role.FRONT_END}), now)
            )

    assert race(*[lambda n=number: add(n) for number in range(4)]) == ["done"] * 4
    assert stores[0].version() == before + 4 * ROUNDS
    assert len(stores[0].load().clients) == 4 * ROUNDS


def test_a_load_sees_one_moment(
    make_store: MakeStore, make_credential: Callable[[str], CredentialRecord], now: datetime
) -> None:
    """The client exists only at odd distances from the first version, and always with its credential."""
    writer, reader = make_store(), make_store()
    first = writer.version()
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            writer.change(
                lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now, make_credential("a"))
            )
            writer.change(lambda tx: tx.clients.remove("web1"))

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        try:
            seen = set()
            while len(seen) < 2 or reader.version() < first + 20:
                contents = reader.load()
                present = (contents.version - first) % 2 == 1
                assert [client.name for client in contents.clients] == ["web1"] * present
                assert all(len(client.credentials) == 1 for client in contents.clients)
                seen.add(present)
        finally:
            stop.set()
        writing.result(30)


def test_threads_share_one_store(store: Store, make_key: MakeKey) -> None:
    """More threads than connections in the pool."""
    keys = [make_key(f"k{number}") for number in range(12)]
    assert race(*[lambda k=key: store.change(lambda tx: tx.keys.add(k)) for key in keys]) == ["done"] * 12
    assert race(*[lambda k=key: store.query(lambda tx: tx.keys.get(k.name)) for key in keys]) == ["done"] * 12
    assert race(*[lambda: store.change(lambda tx: tx.keys.remove("k0"))] * 2).count("NotFound") == 1
