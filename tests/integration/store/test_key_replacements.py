"""A new key takes over a name: grants and readers come with it, limits are not widened, and every step can be undone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from hsmd.daemon.front.access.snapshot import Snapshot
from hsmd.daemon.store import Store
from hsmd.daemon.store.records import GrantRecord, Limits, ReaderRecord, ServedRecord, WantedUse
from hsmd.errors import Conflict, NotFound
from hsmd.protocol.roles import Role
from hsmd.purposes import Purpose
from tests.support.store import NOW, key_record

LATER = NOW + timedelta(days=1)
OLD, NEW = b"\x01" * 32, b"\x02" * 32
TLS13, TLS12 = Purpose.TLS13_SERVER, Purpose.TLS12_SERVER
SHOP = key_record("shop").digest
KEPT = f"shop.replaced-{LATER:%Y-%m-%d}"


@pytest.fixture
def filled(store: Store) -> Store:
    """web1 may use shop, web2 within limits, of which two of five uses are left; its readers are web1 and aud."""
    with store.write() as tx:
        tx.keys.add(key_record("shop"))
        for name in ("web1", "web2", "aud"):
            tx.clients.add(name, frozenset({Role.FRONT_END}), NOW)
        tx.grants.add("web1", "shop", [TLS13, TLS12])
        tx.limited_grants.add("web2", "shop", [TLS13], Limits(max_uses=5, request="R1"), NOW)
        tx.limited_grants.add("web2", "shop", [TLS12], Limits(not_after=NOW + timedelta(hours=1)), NOW)
        tx.readers.add("shop", "web1")
        tx.readers.add("shop", "aud")
    digest = key_record("shop").digest
    with store.write(versioned=False) as tx:
        (grant,) = (each for each in tx.limited_grants.of("web2", "shop") if each.purpose is TLS13)
        uses = [WantedUse(grant.id, "origin", number, "web2", digest, int(TLS13)) for number in range(3)]
        tx.limited_grants.count(uses, NOW)
    return store


def begin(store: Store) -> None:
    with store.write() as tx:
        tx.keys.add(key_record("shop.next", seed="successor"))
        tx.replacements.begin("shop", SHOP, "shop.next", NOW)


def switch(store: Store, name: str = "shop") -> tuple[str, list[str]]:
    return store.change(lambda tx: tx.replacements.switch(name, LATER))


def grant(store: Store, client: str, key: str) -> GrantRecord:
    return store.query(lambda tx: tx.grants.get(client, key))


def test_the_new_key_gets_name_grants_and_readers(filled: Store) -> None:
    begin(filled)
    kept, notes = switch(filled)
    assert kept == KEPT
    digests = {each.name: each.digest for each in filled.load().keys}
    assert digests == {
        "shop": key_record("x", seed="successor").digest, KEPT: key_record("shop").digest
    }  # fmt: skip
    assert grant(filled, "web1", "shop").purposes == grant(filled, "web1", KEPT).purposes == {TLS13, TLS12}
    (copied,) = grant(filled, "web2", "shop").limited
    assert (copied.purpose, copied.limits.max_uses, copied.used, copied.limits.request) == (TLS13, 2, 0, "R1")
    assert [(each.limits.max_uses, each.used) for each in grant(filled, "web2", KEPT).limited] == [
        (5, 3), (None, 0)
    ]  # fmt: skip
    assert notes == [
        "web2 for tls13-server: 2 uses of the new key, as many as are left of the old one",
        "the limited grant of web2 for tls12-server was not copied: it has ended",
    ]
    readers = filled.query(lambda tx: tx.readers.all())
    assert [(each.key, each.client) for each in readers] == [
        ("shop", "aud"), ("shop", "web1"), (KEPT, "aud"), (KEPT, "web1")
    ]  # fmt: skip
    assert all(isinstance(each, ReaderRecord) for each in readers)


def test_a_snapshot_that_follows_shows_the_switch(filled: Store) -> None:
    known = Snapshot.of(filled.difference(None))
    begin(filled)
    switch(filled)
    followed = known.updated(filled.difference(known.standing))
    assert followed.digest_of("shop") == key_record("x", seed="successor").digest.hex()
    assert followed.digest_of(KEPT) == key_record("shop").digest.hex()
    assert len(followed.keys_of("web1", LATER)) == 2


def test_a_switch_is_taken_back_and_made_again(filled: Store) -> None:
    begin(filled)
    switch(filled)
    successor = filled.change(lambda tx: tx.replacements.switch_back("shop", LATER))
    assert successor == "shop.next"
    names = {each.digest: each.name for each in filled.load().keys}
    assert names == {
        key_record("shop").digest: "shop", key_record("x", seed="successor").digest: "shop.next"
    }  # fmt: skip
    with pytest.raises(Conflict):
        filled.change(lambda tx: tx.replacements.switch_back("shop", LATER))
    assert switch(filled)[1] == ["the limited grant of web2 for tls12-server was not copied: it has ended"]
    assert grant(filled, "web2", "shop").limited[0].limits.max_uses == 2, "no use was given back"
    with pytest.raises(Conflict):
        switch(filled)


def test_a_replacement_ends_with_either_key(filled: Store) -> None:
    begin(filled)
    assert filled.query(lambda tx: tx.replacements.of("shop.next")).key == "shop"  # type: ignore[union-attr]
    filled.change(lambda tx: tx.keys.remove("shop.next"))
    assert filled.query(lambda tx: tx.replacements.of("shop")) is None
    begin(filled)
    switch(filled)
    filled.change(lambda tx: tx.keys.remove(KEPT))
    assert filled.query(lambda tx: tx.replacements.of("shop")) is None
    assert grant(filled, "web1", "shop").purposes == {TLS13, TLS12}


def test_what_cannot_be_switched(filled: Store) -> None:
    with pytest.raises(Conflict, match="begin with `hsmd key replace shop`"):
        switch(filled)
    with pytest.raises(NotFound):
        switch(filled, "unknown")
    begin(filled)
    with pytest.raises(Conflict, match="no new key that waits to take over the name shop"):
        switch(filled, "shop.next")
    with pytest.raises(Conflict):
        filled.change(lambda tx: tx.replacements.begin("shop", SHOP, "shop.next", NOW))
    with pytest.raises(Conflict):
        filled.change(lambda tx: tx.replacements.begin("gone", SHOP, "shop.next", NOW))


def test_a_key_that_got_the_name_meanwhile_is_not_replaced(filled: Store) -> None:
    """The new key was made for the owner and the purposes of the one before."""
    with filled.write() as tx:
        tx.keys.add(key_record("shop.next", seed="successor"))
        tx.keys.rename("shop", "moved", NOW)
        tx.keys.add(key_record("shop", seed="another"))
    with pytest.raises(Conflict, match="removed or renamed meanwhile"):
        filled.change(lambda tx: tx.replacements.begin("shop", SHOP, "shop.next", NOW))
    filled.change(lambda tx: tx.replacements.begin("moved", SHOP, "shop.next", NOW))


def test_names_fit_and_are_free(filled: Store) -> None:
    long = "n" * 64
    with filled.write() as tx:
        tx.keys.add(key_record(long))
        tx.keys.add(key_record(KEPT, seed="in the way"))
        assert tx.replacements.name_of_successor(long) == "n" * 59 + ".next"
        tx.keys.add(key_record("n" * 59 + ".next"))
        assert tx.replacements.name_of_successor(long) == "n" * 57 + ".next-2"
    begin(filled)
    assert switch(filled)[0] == f"{KEPT}-2"


def served(store: Store, key: str) -> list[ServedRecord]:
    return list(store.query(lambda tx: tx.served.of_key(key, "", 10)).items)


def test_the_newest_report_of_a_front_end_counts(filled: Store) -> None:
    """Whatever was switched, a front end serves what it reported last."""
    minutes: Callable[[int], timedelta] = lambda number: timedelta(minutes=number)  # noqa: E731

    def report(certificate: bytes, at: int) -> bool:
        return filled.change(
            lambda tx: tx.served.report("web1", {"shop": certificate}, NOW + minutes(at)), versioned=False
        )

    def seen() -> bytes:
        return next(each.certificate for each in served(filled, "shop") if each.client == "web1")

    report(OLD, 0)
    begin(filled)
    switch(filled)
    assert seen() == OLD
    report(NEW, 1)
    assert seen() == NEW
    filled.change(lambda tx: tx.replacements.switch_back("shop", LATER))
    assert seen() == NEW
    assert report(OLD, 2)
    assert seen() == OLD
    switch(filled)
    assert seen() == OLD
    assert report(NEW, 3)
    assert seen() == NEW


def test_a_backup_holds_a_replacement(filled: Store, restored: Callable[[bytes], Store]) -> None:
    begin(filled)
    switch(filled)
    copy = restored(filled.export())
    found = copy.query(lambda tx: tx.replacements.of("shop"))
    assert found is not None
    assert (found.key, found.switched_at) == (KEPT, LATER)
