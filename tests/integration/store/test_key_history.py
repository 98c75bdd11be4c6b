"""What the store remembers of keys, their owners and their names, on both databases."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from hsmd.daemon.store import KeyOwner, KeyRecord, KeySpan, NameSpan, PastKey, ReadingRights, Store
from hsmd.daemon.store.migrate import migrate
from hsmd.errors import BadRequest, Conflict
from hsmd.protocol.roles import Role
from tests.support.postgresql import Cluster

OWNER, FRONT_END = frozenset({Role.OWNER}), frozenset({Role.FRONT_END})
_numbers = itertools.count()


def later(now: datetime, seconds: int) -> datetime:
    return now + timedelta(seconds=seconds)


def rights(store: Store, client: str, *, owns: bool = True) -> ReadingRights:
    return store.query(lambda tx: tx.readers.rights_of(client, owns=owns))


def past(store: Store, owner: str = "") -> list[PastKey]:
    return list(store.query(lambda tx: tx.history.page(0, 100, owner)).items)


def id_of(store: Store, client: str) -> int:
    return store.query(lambda tx: tx.clients.find_id(client))


@pytest.fixture
def other_url(request: pytest.FixtureRequest, empty_url: str, tmp_path: Path) -> str:
    """A second database of the same kind, empty."""
    if empty_url.startswith("sqlite"):
        return f"sqlite:///{tmp_path}/other.db"
    cluster: Cluster = request.getfixturevalue("cluster")
    database = f"other_{next(_numbers)}"
    cluster.run(f"CREATE DATABASE {database}")
    return cluster.url(database)


@pytest.fixture
def pay(store: Store, make_key: Callable[..., KeyRecord], now: datetime) -> KeyRecord:
    """A key that belongs to the client `team`."""
    key = replace(make_key("pay"), owner=KeyOwner("team"))
    store.change(lambda tx: tx.clients.add("team", OWNER, now))
    store.change(lambda tx: tx.keys.add(key))
    return key


def test_a_key_is_remembered_with_owner_and_names_when_it_is_gone(
    store: Store, pay: KeyRecord, now: datetime
) -> None:
    assert store.query(lambda tx: tx.keys.get("pay")) == pay
    assert past(store) == []
    store.change(lambda tx: tx.keys.rename("pay", "pay-old", later(now, 1)))
    assert store.query(lambda tx: tx.keys.get("pay-old")).owner == KeyOwner("team")
    store.change(lambda tx: tx.keys.remove("pay-old", later(now, 2)))
    names = (NameSpan("pay", now, later(now, 1)), NameSpan("pay-old", later(now, 1), later(now, 2)))
    (found,) = past(store)
    assert found == PastKey(found.id, pay.digest, KeyOwner("team"), now, later(now, 2), names)
    assert past(store, "team") == [found]
    assert rights(store, "team") == ReadingRights(now, (KeySpan(pay.digest, None, None),), names)


def test_an_owner_is_a_client_and_not_a_name(store: Store, pay: KeyRecord, now: datetime) -> None:
    store.change(lambda tx: tx.clients.rename("team", "payments", later(now, 1)))
    store.change(lambda tx: tx.clients.add("team", OWNER, later(now, 2)))
    assert store.query(lambda tx: tx.keys.get("pay")).owner == KeyOwner("payments")
    assert rights(store, "team") == ReadingRights(later(now, 2))
    assert rights(store, "payments").since == later(now, 1)
    assert rights(store, "payments").keys == (KeySpan(pay.digest, None, None),)
    store.change(lambda tx: tx.clients.remove("payments"))
    store.change(lambda tx: tx.clients.add("payments", OWNER, later(now, 3)))
    assert rights(store, "payments") == ReadingRights(later(now, 3))
    # The name that it had when the key was made; the client that has it now is another one.
    assert store.query(lambda tx: tx.keys.get("pay")).owner == KeyOwner("team", removed=True)
    store.change(lambda tx: tx.keys.remove("pay", later(now, 4)))
    assert past(store, "payments") == past(store, "team") == []
    assert [key.owner for key in past(store)] == [KeyOwner("team", removed=True)]


def test_only_a_client_with_the_role_can_own_keys_and_then_it_keeps_the_role(
    store: Store, pay: KeyRecord, make_key: Callable[..., KeyRecord], now: datetime
) -> None:
    store.change(lambda tx: tx.clients.add("web", FRONT_END, now))
    for owner, problem in (
        ("web", "role add web owner"),
        ("nothing", "no client 'nothing'"),
        ("\0", "no client"),
    ):
        with pytest.raises(Conflict, match=problem):
            store.change(lambda tx: tx.keys.add(replace(make_key("other"), owner=KeyOwner(owner))))
    store.change(lambda tx: tx.clients.add_role("team", Role.FRONT_END))
    for _ in ("while the key is served", "when it is gone"):
        with pytest.raises(Conflict, match="belong or belonged to 'team'"):
            store.change(lambda tx: tx.clients.remove_role("team", Role.OWNER))
        assert store.change(lambda tx: tx.clients.remove_role("team", Role.FRONT_END)) in (True, False)
        store.change(lambda tx: tx.clients.add_role("team", Role.FRONT_END))
        if not past(store):
            store.change(lambda tx: tx.keys.remove("pay", later(now, 1)))
    store.change(lambda tx: tx.clients.add_role("web", Role.OWNER))
    assert store.change(lambda tx: tx.clients.remove_role("web", Role.OWNER)), "it owns nothing"


def test_without_the_role_an_owner_reads_nothing_about_its_keys(store: Store, pay: KeyRecord) -> None:
    assert rights(store, "team", owns=False).keys == rights(store, "team", owns=False).names == ()


def test_the_same_key_served_again_may_have_another_owner(
    store: Store, pay: KeyRecord, now: datetime
) -> None:
    """Each owner reads about its time: the first one from the beginning until the key was served again."""
    store.change(lambda tx: tx.keys.remove("pay", later(now, 1)))
    store.change(lambda tx: tx.clients.add("rival", OWNER, now))
    again = replace(pay, name="again", created_at=later(now, 5), owner=KeyOwner("rival"))
    store.change(lambda tx: tx.keys.add(again))
    assert rights(store, "team").keys == (KeySpan(pay.digest, None, later(now, 5)),)
    assert rights(store, "rival").keys == (KeySpan(pay.digest, later(now, 5), None),)
    assert store.query(lambda tx: tx.keys.get("again")).owner == KeyOwner("rival")
    store.change(lambda tx: tx.keys.remove("again", later(now, 6)))
    store.change(lambda tx: tx.keys.add(replace(pay, created_at=later(now, 7), owner=None)))
    assert rights(store, "rival").keys == (KeySpan(pay.digest, later(now, 5), later(now, 7)),)
    assert store.query(lambda tx: tx.keys.get("pay")).owner is None


def test_a_reader_reads_about_a_key_that_is_served_under_its_names(
    store: Store, make_key: Callable[..., KeyRecord], now: datetime
) -> None:
    site = make_key("site")
    store.change(lambda tx: tx.keys.add(site))
    store.change(lambda tx: tx.clients.add("web", FRONT_END, now))
    store.change(lambda tx: tx.readers.add("site", "web"))
    store.change(lambda tx: tx.keys.rename("site", "shop", later(now, 1)))
    names = (NameSpan("site", now, later(now, 1)), NameSpan("shop", later(now, 1), None))
    expected = ReadingRights(now, (KeySpan(site.digest, None, None),), names)
    assert rights(store, "web") == rights(store, "web", owns=False) == expected
    store.change(lambda tx: tx.keys.remove("shop", later(now, 2)))
    assert rights(store, "web") == ReadingRights(now)


def test_destroyed_keys_are_listed_in_pages(
    store: Store, make_key: Callable[..., KeyRecord], now: datetime
) -> None:
    store.change(lambda tx: tx.clients.add("team", OWNER, now))
    for number in range(7):
        owner = KeyOwner("team") if number % 2 else None
        store.change(lambda tx: tx.keys.add(replace(make_key(f"k{number}"), owner=owner)))
        if number != 4:
            store.change(lambda tx: tx.keys.remove(f"k{number}", later(now, number)))
    found: list[str] = []
    after, more = 0, True
    while more:
        page = store.query(lambda tx: tx.history.page(after, 2))
        assert len(page.items) <= 2
        found += [each.names[0].name for each in page.items]
        after, more = page.items[-1].id, page.more
    assert found == ["k0", "k1", "k2", "k3", "k5", "k6"]
    assert [each.names[0].name for each in past(store, "team")] == ["k1", "k3", "k5"]


def test_events_about_a_key_concern_its_owner_too(
    store: Store, pay: KeyRecord, make_key: Callable[..., KeyRecord], now: datetime
) -> None:
    store.change(lambda tx: tx.keys.add(make_key("site")))
    store.change(lambda tx: tx.clients.add("web", FRONT_END, now))
    store.change(lambda tx: tx.readers.add("pay", "web"))
    audience = {name: store.query(lambda tx: tx.audience_of_key(name)).clients for name in ("pay", "site")}
    assert audience == {"pay": {id_of(store, "team"), id_of(store, "web")}, "site": set()}


# --- daemons of the release before ---


def old_release(store: Store, *statements: str) -> None:
    """What a daemon does that does not know the history."""
    with store._engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def test_what_a_daemon_of_an_earlier_release_changes_is_caught_up(
    store: Store, pay: KeyRecord, make_key: Callable[..., KeyRecord], now: datetime
) -> None:
    for name in ("renamed", "gone", "kept"):
        store.change(lambda tx: tx.keys.add(make_key(name)))
    assert not store.load().history_behind
    old_release(
        store,
        "UPDATE keys SET name = 'pay-old' WHERE name = 'pay'",
        "UPDATE keys SET name = 'new-name' WHERE name = 'renamed'",
        "DELETE FROM keys WHERE name = 'gone'",
        "INSERT INTO keys (name, key_type, digest, public_key, token, created_at, warnings) "
        "SELECT 'made', key_type, public_key, public_key, token, created_at, warnings FROM keys WHERE name = 'kept'",
    )
    assert store.load().history_behind
    assert store.query(lambda tx: tx.keys.get("pay-old")).owner == KeyOwner("team")
    with ThreadPoolExecutor(4) as pool:  # every daemon notices it at the same time
        for _ in pool.map(lambda _: store.change(lambda tx: tx.history.catch_up(later(now, 9))), range(4)):
            pass
    assert not store.load().history_behind
    assert rights(store, "team").names == (
        NameSpan("pay", now, later(now, 9)), NameSpan("pay-old", later(now, 9), None),
    )  # fmt: skip
    (gone,) = past(store)
    assert (gone.names, gone.destroyed_at) == ((NameSpan("gone", now, later(now, 9)),), later(now, 9))
    store.change(lambda tx: tx.keys.remove("made", later(now, 10)))
    assert [each.names for each in past(store)][1:] == [(NameSpan("made", now, later(now, 10)),)]


def test_a_name_that_another_key_got_meanwhile_ends_when_that_key_was_made(
    store: Store, pay: KeyRecord, make_key: Callable[..., KeyRecord], now: datetime
) -> None:
    """Otherwise the first owner would read what was recorded about the second key by its name."""
    old_release(store, "DELETE FROM keys WHERE name = 'pay'")
    second = replace(make_key("pay", seed="another"), created_at=later(now, 5))
    store.change(lambda tx: tx.keys.add(second))
    store.change(lambda tx: tx.history.catch_up(later(now, 9)))
    assert rights(store, "team").names == (NameSpan("pay", now, later(now, 5)),)


def old_store(url: str, now: datetime) -> Store:
    """A store of schema 0004, with a key that has a reader, as that release wrote it."""
    store = Store(url)
    migrate(store._engine, store._path, "0004")
    at = now.replace(tzinfo=None) if url.startswith("sqlite") else now
    with store._engine.begin() as connection:
        for statement in (
            """INSERT INTO keys (name, key_type, digest, public_key, token, created_at, warnings)
            VALUES ('site', 'p-256', :digest, :digest, 'main', :at, '[]')""",
            "INSERT INTO key_purposes (key_id, purpose) SELECT id, 1 FROM keys",
            "INSERT INTO clients (name, role, created_at) VALUES ('web', 'front-end', :at)",
            "INSERT INTO key_owners (key_id, client_id) SELECT keys.id, clients.id FROM keys, clients",
        ):
            connection.execute(
                text(statement), {"digest": b"\7" * 32, "at": str(at) if url.startswith("sqlite") else at}
            )
    return store


@pytest.mark.parametrize("way", ["migrated", "restored"])
def test_owners_of_the_release_before_are_readers(
    empty_url: str, other_url: str, now: datetime, way: str
) -> None:
    store = old_store(empty_url, now)
    if way == "restored":
        backup = store.export()
        store.close()
        store = Store(other_url)
        store.restore(backup)
    else:
        store.migrate()
    try:
        assert [(each.key, each.client) for each in store.query(lambda tx: tx.readers.all())] == [
            ("site", "web")
        ]
        expected = ReadingRights(now, (KeySpan(b"\7" * 32, None, None),), (NameSpan("site", now, None),))
        assert rights(store, "web") == expected
        assert store.query(lambda tx: tx.keys.get("site")).owner is None
        assert not store.load().history_behind
        store.change(lambda tx: tx.keys.remove("site", later(now, 1)))
        assert [each.names[0].name for each in past(store)] == ["site"]
    finally:
        store.close()


# --- backups ---


def test_a_restored_store_gives_no_client_the_row_id_of_an_owner_that_was_removed(
    store: Store, pay: KeyRecord, other_url: str, now: datetime
) -> None:
    """Such a client would inherit the owner's keys."""
    owner = id_of(store, "team")
    store.change(lambda tx: tx.clients.remove("team"))
    restored = Store(other_url)
    try:
        restored.restore(store.export())
        restored.change(lambda tx: tx.clients.add("team", OWNER, later(now, 1)))
        assert id_of(restored, "team") > owner
        assert rights(restored, "team") == ReadingRights(later(now, 1))
        assert restored.query(lambda tx: tx.keys.get("pay")).owner == KeyOwner("team", removed=True)
        assert past(restored) == past(store)
        again = restored.export()
    finally:
        restored.close()
    assert b'"ids"' in again


def test_a_backup_keeps_the_owner_of_a_key(
    store: Store, pay: KeyRecord, other_url: str, now: datetime
) -> None:
    store.change(lambda tx: tx.keys.rename("pay", "pay-old", later(now, 1)))
    restored = Store(other_url)
    try:
        restored.restore(store.export())
        assert restored.query(lambda tx: tx.keys.get("pay-old")).owner == KeyOwner("team")
        assert rights(restored, "team") == rights(store, "team")
        with pytest.raises(BadRequest):
            restored.change(lambda tx: tx.keys.rename("pay-old", "\0"))
    finally:
        restored.close()
