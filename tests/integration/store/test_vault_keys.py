"""Management keys in the store, on both databases: numbers, confirmation, replacement, loss."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, text, update

from hsmd.daemon.store import Given, KeyState, ManagementKeyRecord, NotGiven, Readers, Store
from hsmd.daemon.store.migrate import migrate
from hsmd.daemon.store.tables import vault_versions
from hsmd.envelopes.vault.life_cycle import Reason
from hsmd.envelopes.vault.management_keys import fingerprint_of_text
from hsmd.errors import BadRequest, Conflict, NotFound
from hsmd.protocol.roles import Role
from tests.support.vault_store import Owner, management_statement, stated_key


@pytest.fixture
def ann(store: Store) -> Owner:
    return Owner(store).enrol()


def states(owner: Owner) -> list[tuple[int, str, int]]:
    found = owner.store.query(lambda tx: tx.vault_keys.page(owner.name)).items
    return [(each.number, each.state.value, each.deposits) for each in reversed(found)]


def register(owner: Owner, number: int, now: datetime, *, previous: str = "", seed: bytes = b"") -> bytes:
    statement = management_statement(owner.name, number, previous, seed)
    found = owner.change(lambda tx: tx.vault_keys.register(owner.name, stated_key(statement), now))
    assert (found.digest, found.text, found.state) == (statement.digest, statement.encode(), KeyState.PENDING)
    return statement.digest


def test_the_first_key_counts_once_it_is_confirmed(ann: Owner, now: datetime) -> None:
    version = ann.store.version()
    digest = register(ann, 1, now)
    assert ann.store.query(lambda tx: tx.vault_keys.active("ann")) is None
    with pytest.raises(NotFound, match="no management key of 'ann' with this fingerprint waits"):
        ann.change(lambda tx: tx.vault_keys.confirm("ann", bytes(32), "note", now))
    confirmed = ann.change(lambda tx: tx.vault_keys.confirm("ann", digest, "note", now))
    assert (confirmed.state, confirmed.confirmation, confirmed.created_at) == (KeyState.ACTIVE, "note", now)
    assert ann.store.query(lambda tx: tx.vault_keys.active("ann")) == confirmed
    assert ann.store.query(lambda tx: tx.vault_keys.by_digest("ann", digest)) == confirmed
    assert ann.store.version() == version
    with pytest.raises(NotFound):
        ann.change(lambda tx: tx.vault_keys.confirm("ann", digest, "again", now))


def test_only_owners_register(store: Store, now: datetime) -> None:
    store.change(lambda tx: tx.clients.add("bob", frozenset({Role.CHECKER}), now))
    with pytest.raises(BadRequest, match="'bob' does not have the role owner"):
        register(Owner(store, "bob"), 1, now)
    with pytest.raises(NotFound, match="no client 'carl'"):
        register(Owner(store, "carl"), 1, now)
    for call in (lambda tx: tx.vault_keys.confirm("carl", bytes(32), "", now),):
        with pytest.raises(NotFound):
            store.change(call, versioned=False)


def test_a_key_that_waits_is_replaced_by_the_next_one(ann: Owner, now: datetime) -> None:
    first = register(ann, 1, now)
    second = register(ann, 1, now, seed=b"other")
    assert states(ann) == [(1, "pending", 0)]
    with pytest.raises(NotFound):
        ann.change(lambda tx: tx.vault_keys.confirm("ann", first, "", now))
    ann.change(lambda tx: tx.vault_keys.confirm("ann", second, "", now))
    assert states(ann) == [(1, "active", 0)]


def test_numbers_have_no_gaps(ann: Owner, now: datetime) -> None:
    with pytest.raises(Conflict, match=r"has the number 1, not 2"):
        register(ann, 2, now)
    ann.begin()
    for number in (1, 3):
        with pytest.raises(Conflict, match=r"has the number 2, not"):
            register(ann, number, now)
    with pytest.raises(Conflict, match="previous is neither"):
        register(ann, 2, now, previous="00" * 32)


def test_a_restart_loses_the_keys_before(ann: Owner, now: datetime) -> None:
    ann.begin()
    ann.put("web")
    old = ann.replace()
    assert states(ann) == [(1, "replaced", 1), (2, "active", 0)]
    digest = register(ann, 3, now, previous=old.digest.hex())
    assert states(ann) == [(1, "replaced", 1), (2, "active", 0), (3, "pending", 0)]
    ann.change(lambda tx: tx.vault_keys.confirm("ann", digest, "", now))
    assert states(ann) == [(1, "lost", 1), (2, "lost", 0), (3, "active", 0)]
    assert ann.look().management_state is KeyState.LOST


def test_a_replacement_goes_on_until_nothing_is_left_under_the_old_key(ann: Owner, now: datetime) -> None:
    ann.begin()
    ann.put("web")
    ann.put("mail")
    ann.put("gone")
    ann.destroy("gone")
    register(ann, 2, now)  # drops out: the management key is there, and vouches for the next one
    ann.replace()
    assert states(ann) == [(1, "replaced", 2), (2, "active", 0)]
    with pytest.raises(
        Conflict, match=r"2 deposits under the management key number 1 .* web version 1 first"
    ):
        ann.change(lambda tx: tx.vault_keys.finish("ann", now))
    ann.rewrap("web")
    with pytest.raises(Conflict, match=r"1 deposit under .* mail version 1 first"):
        ann.replace()
    ann.rewrap("mail")
    assert ann.change(lambda tx: tx.vault_keys.finish("ann", now)).state is KeyState.RETIRED
    assert states(ann) == [(1, "retired", 0), (2, "active", 2)]
    with pytest.raises(Conflict, match="no management key of 'ann' is being replaced"):
        ann.change(lambda tx: tx.vault_keys.finish("ann", now))


def test_a_replacement_continues_the_active_key(ann: Owner, now: datetime) -> None:
    with pytest.raises(Conflict, match="'ann' has no management key"):
        statement = management_statement("ann")
        ann.change(lambda tx: tx.vault_keys.replace("ann", stated_key(statement), now))
    ann.begin()
    wrong = management_statement("ann", 2, "00" * 32)
    with pytest.raises(Conflict, match="previous is not the digest of the active"):
        ann.change(lambda tx: tx.vault_keys.replace("ann", stated_key(wrong), now))
    late = management_statement("ann", 3, ann.management.digest.hex())
    with pytest.raises(Conflict, match="has the number 2, not 3"):
        ann.change(lambda tx: tx.vault_keys.replace("ann", stated_key(late), now))
    ann.replace()
    ann.replace()
    assert states(ann) == [(1, "retired", 0), (2, "replaced", 0), (3, "active", 0)]


def test_operators_are_told(ann: Owner, now: datetime) -> None:
    digest = register(ann, 1, now)
    ann.change(lambda tx: tx.vault_keys.confirm("ann", digest, "", now))
    page = ann.store.query(lambda tx: tx.events.page(Readers(frozenset({Role.OPERATOR})), None))
    fingerprint = management_statement("ann").fingerprint
    assert [(each.kind, each.subject, each.payload) for each in page.events] == [
        (kind, "ann", {"number": 1, "fingerprint": fingerprint})
        for kind in ("vault.registered", "vault.confirmed")
    ]


def test_keys_are_listed_in_pages(ann: Owner) -> None:
    ann.begin()
    ann.put()
    ann.replace()

    def page(*arguments: int) -> tuple[list[tuple[int, int]], bool]:
        found = ann.store.query(lambda tx: tx.vault_keys.page("ann", *arguments))
        return [(each.number, each.deposits) for each in found.items], found.more

    assert page() == ([(2, 0), (1, 1)], False)
    assert page(0, 1) == ([(2, 0)], True)
    assert page(2, 1) == ([(1, 1)], False)
    assert page(1) == ([], False)
    assert ann.store.query(lambda tx: tx.vault_keys.page("bob")).items == ()


def test_deposits_are_not_counted_where_a_key_only_proves(ann: Owner, now: datetime) -> None:
    """An owner can have 10,000, and each proof and each check reads the key."""
    ann.begin()
    ann.put()
    counted: list[str] = []

    def watch(*arguments: Any) -> None:
        if "count(" in arguments[2]:
            counted.append(arguments[2])

    with ann.store.read() as tx:
        event.listen(tx.connection, "before_cursor_execute", watch)
        found = tx.vault_keys.active("ann")
        assert found is not None
        assert tx.vault_keys.by_digest("ann", found.digest) == found
        assert counted == []
        tx.vault_keys.page("ann")
        assert len(counted) == 1


def test_the_owner_and_operators_are_told_of_a_replacement(ann: Owner, store: Store, now: datetime) -> None:
    """Whoever has stolen the management key can replace it; a login that reads events shows that to its owner."""
    ann.begin()
    ann.put("web")
    first = ann.replace()
    with pytest.raises(Conflict):
        ann.change(lambda tx: tx.vault_keys.finish("ann", now))
    ann.rewrap("web")
    ann.change(lambda tx: tx.vault_keys.finish("ann", now))
    second = ann.replace()
    ann.rewrap("web")
    third = ann.replace()  # ends the replacement before it, too
    store.change(lambda tx: tx.clients.add("bob", frozenset({Role.OWNER}), now))
    expected = [
        {
            "number": key.number,
            "fingerprint": fingerprint(key),
            "previous": key.number - 1,
            "finished": finished,
        }
        for key, finished in ((first, False), (first, True), (second, False), (second, True), (third, False))
    ]
    for reader, seen in (
        (Readers(frozenset({Role.OPERATOR})), expected),
        (Readers(frozenset(), frozenset({first.owner_row})), expected),
        (Readers(frozenset({Role.OWNER})), []),
    ):
        page = store.query(lambda tx, reader=reader: tx.events.page(reader, None))
        told = [(each.subject, each.payload) for each in page.events if each.kind == "vault.replaced"]
        assert told == [("ann", payload) for payload in seen]


# --- restores ---


def held(owner: Owner) -> list[tuple[int, str, bool]]:
    found = owner.store.query(lambda tx: tx.vault_keys.page(owner.name)).items
    return [(each.number, each.state.value, each.held) for each in reversed(found)]


def test_after_a_restore_management_keys_are_held_until_they_are_confirmed_again(
    ann: Owner, restored: Callable[[bytes], Store], now: datetime
) -> None:
    """The backup does not know whether a key was stolen and replaced since."""
    first = ann.begin()
    ann.put("web")
    ann.put("mail")
    ann.replace()
    ann.rewrap("mail")
    assert held(ann) == [(1, "replaced", False), (2, "active", False)]
    ann.store = restored(ann.store.export())
    assert held(ann) == [(1, "replaced", True), (2, "active", True)]
    for record in ("web", "mail"):  # statements alone release nothing while the key is held
        assert ann.limit(record).held is False
        assert ann.look(record).judge(now).reason is Reason.RESTORED
        assert isinstance(ann.get(record), NotGiven)
    digest = ann.management.digest
    for other in (bytes(32), first.digest):
        with pytest.raises(NotFound):
            ann.change(lambda tx, other=other: tx.vault_keys.confirm("ann", other, "again", now))
    found = ann.change(lambda tx: tx.vault_keys.confirm("ann", digest, "again", now))
    assert (found.state, found.confirmation, found.held) == (KeyState.ACTIVE, "again", False)
    assert held(ann) == [(1, "replaced", False), (2, "active", False)], "it goes on being replaced"
    assert isinstance(ann.get("web"), Given) and isinstance(ann.get("mail"), Given)
    with pytest.raises(NotFound):
        ann.change(lambda tx: tx.vault_keys.confirm("ann", digest, "once more", now))


def test_after_a_restore_the_key_that_had_replaced_another_one_is_registered_again(
    ann: Owner, restored: Callable[[bytes], Store], now: datetime
) -> None:
    ann.begin()
    ann.put("web")
    document = ann.store.export()
    ann.replace()
    new = ann.management
    ann.store = restored(document)
    assert held(ann) == [(1, "active", True)]
    ann.change(lambda tx: tx.vault_keys.register("ann", stated_key(new), now))
    assert held(ann) == [(1, "active", True), (2, "pending", False)]
    ann.change(lambda tx: tx.vault_keys.confirm("ann", new.digest, "confirmed", now))
    assert held(ann) == [(1, "lost", False), (2, "active", False)]


def test_a_store_that_was_restored_by_an_earlier_release_holds_management_keys(
    empty_url: str, now: datetime
) -> None:
    store = Store(empty_url)
    store.migrate()
    ann, bob = Owner(store).enrol(), Owner(store, "bob").enrol()
    for owner in (ann, bob):
        owner.begin()
        owner.put("web")
    with store.write(versioned=False) as tx:
        mine = vault_versions.c.owner_id == ann.look("web").owner_row
        tx.connection.execute(update(vault_versions).where(mine).values(held=True))
        tx.connection.execute(text("ALTER TABLE vault_management_keys DROP COLUMN held"))
        tx.connection.execute(text("UPDATE alembic_version SET version_num = '0015'"))
    store.close()
    ann.store = bob.store = again = Store(empty_url)
    migrate(again._engine, again._path, "0016")  # the tables of later releases are there
    assert (held(ann), held(bob)) == ([(1, "active", True)], [(1, "active", False)])
    again.close()


def fingerprint(key: ManagementKeyRecord) -> str:
    return fingerprint_of_text(key.text)


def told_held(store: Store) -> list[tuple[str, dict[str, Any]]]:
    page = store.query(lambda tx: tx.events.page(Readers(frozenset({Role.OPERATOR})), None))
    return [(each.subject, each.payload) for each in page.events if each.kind == "vault.held"]


def tell_held(store: Store, now: datetime, limit: int = 2) -> list[int]:
    """As a daemon does when it starts; how many keys each page had."""
    after: int | None = 0
    counts = []
    while after is not None:
        found = store.query(lambda tx, after=after: tx.vault_keys.held(after, limit))
        store.change(lambda tx, after=after: tx.vault_keys.tell_held(after, limit, now), versioned=False)
        counts.append(len(found.keys))
        after = found.last
    return counts


def test_a_restore_is_told_to_each_owner_once(
    store: Store, restored: Callable[[bytes], Store], now: datetime
) -> None:
    owners = [Owner(store, name).enrol() for name in ("ann", "bea", "cat", "dan", "eve")]
    keys = [owner.begin() for owner in owners[:4]]
    assert tell_held(store, now) in ([0, 0], [0, 0, 0]) and told_held(store) == []
    first = restored(store.export())
    first.change(lambda tx: tx.vault_keys.confirm("cat", keys[2].digest, "again", now))
    assert sum(tell_held(first, now)) == 3
    assert sum(tell_held(first, now + timedelta(days=80))) == 3, "another daemon, or a later start"
    expected = [
        (key.owner, {"number": 1, "fingerprint": fingerprint(key)}) for key in (keys[0], keys[1], keys[3])
    ]
    assert told_held(first) == expected
    mine = Readers(frozenset(), frozenset({keys[1].owner_row}))
    page = first.query(lambda tx: tx.events.page(mine, None))
    assert [each.subject for each in page.events if each.kind == "vault.held"] == ["bea"]
    second = restored(first.export())
    before = len(told_held(second))
    for _ in range(2):
        tell_held(second, now)
    assert len(told_held(second)) == before + 4, "another restore"
