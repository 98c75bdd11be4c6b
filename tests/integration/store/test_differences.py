"""Differences: what a daemon reads of the contents that it has read before, from notes that the database makes of every change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from hsmd.daemon.front.access import Snapshot
from hsmd.daemon.store import (
    CredentialRecord,
    Difference,
    KeyOwner,
    KeyRecord,
    Limits,
    RevocationRecord,
    Standing,
    Store,
    Transaction,
    change_notes,
)
from hsmd.protocol.roles import Role
from hsmd.purposes import Purpose

FRONT_END = frozenset({Role.FRONT_END})
CA = "SHA256:" + "c" * 43
NEXT_KEY = CredentialRecord("SHA256:" + "n" * 43, "line")
LATER = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def filled(
    store: Store, make_key: Callable[..., KeyRecord], make_credential: Callable[..., CredentialRecord]
) -> Store:
    """Two front ends with grants on two keys, one of them limited; an owner of a third key."""
    now = datetime.now(UTC)
    with store.write() as tx:
        for name in ("web1", "web2"):
            tx.clients.add(name, FRONT_END, now, make_credential(name))
        tx.clients.add("ann", frozenset({Role.OWNER}), now)
        for name in ("shop", "mail"):
            tx.keys.add(make_key(name))
        tx.keys.add(replace(make_key("own"), owner=KeyOwner("ann")))
        tx.certificates.set("shop", "chain", now)
        tx.user_cas.trust(CA, "line", ["web1", "web2"])
        for client in ("web1", "web2"):
            tx.grants.add(client, "shop", {Purpose.TLS13_SERVER})
        tx.limited_grants.add("web1", "mail", {Purpose.TLS13_SERVER}, Limits(max_uses=5), now)
    return store


def standing(store: Store) -> Standing:
    return store.difference(None).standing


def changed(difference: Difference) -> set[str]:
    """The members in which something is different."""
    members = {each.name for each in fields(Difference)} - {"standing", "whole"}
    return {name for name in members if getattr(difference, name)}


CHANGES: dict[str, tuple[Callable[[Transaction], object], set[str]]] = {
    "client added": (lambda tx: tx.clients.add("web3", FRONT_END, LATER), {"clients"}),
    "client renamed": (lambda tx: tx.clients.rename("web1", "web9"), {"clients"}),
    "client removed": (lambda tx: tx.clients.remove("web1"), {"clients", "grants", "user_cas"}),
    "owner removed": (lambda tx: tx.clients.remove("ann"), {"clients"}),
    "role added": (lambda tx: tx.clients.add_role("web1", Role.OWNER), {"clients"}),
    "role of a front end removed": (lambda tx: _only_owner(tx, "web1"), {"clients", "grants"}),
    "key of a client added": (lambda tx: tx.clients.add_credential("web1", NEXT_KEY), {"clients"}),
    "key renamed": (lambda tx: tx.keys.rename("shop", "store"), {"keys"}),
    "key removed": (lambda tx: tx.keys.remove("shop"), {"keys", "grants", "certificates"}),
    "owned key removed": (lambda tx: tx.keys.remove("own"), {"keys"}),
    "certificate replaced": (lambda tx: tx.certificates.set("shop", "other", LATER), {"certificates"}),
    "grant added": (lambda tx: tx.grants.add("web2", "mail", {Purpose.TLS13_SERVER}), {"grants"}),
    "purpose added": (lambda tx: tx.grants.add("web1", "shop", {Purpose.TLS12_SERVER}), {"grants"}),
    "grant removed": (lambda tx: tx.grants.remove("web1", "shop"), {"grants"}),
    "limited grant removed": (lambda tx: tx.grants.remove("web1", "mail"), {"grants"}),
    "limit changed": (
        lambda tx: tx.limited_grants.add("web1", "mail", {Purpose.TLS13_SERVER}, Limits(max_uses=9), LATER),
        {"grants"},
    ),
    "CA for fewer clients": (lambda tx: tx.user_cas.trust(CA, "line", ["web2"]), {"user_cas"}),
    "CA not trusted": (lambda tx: tx.user_cas.distrust(CA), {"user_cas"}),
    "key revoked": (lambda tx: tx.revocations.add(RevocationRecord("key", "", CA, LATER)), {"revoked"}),
    "statement key endorsed": (lambda tx: tx.statement_endorsements.add("1", "note"), {"endorsements"}),
    "nothing": (lambda tx: None, set()),
}


def _only_owner(tx: Transaction, name: str) -> None:
    tx.clients.add_role(name, Role.OWNER)
    tx.clients.remove_role(name, Role.FRONT_END)


class _Undo(Exception):
    """Rolls a change back, so that one database serves for all."""


def test_each_change_is_a_small_difference_that_gives_the_same_contents(filled: Store) -> None:
    before = Snapshot.of(filled.difference(None))
    for name, (change, members) in CHANGES.items():
        with pytest.raises(_Undo), filled.write() as tx:
            change(tx)
            difference, whole = tx.difference(before.standing), Snapshot.of(tx.difference(None))
            assert (name, difference.whole, changed(difference)) == (name, False, members)
            assert before.index != whole.index
            assert before.updated(difference).index == whole.index, name
            raise _Undo


def test_a_difference_holds_what_has_changed_only(filled: Store) -> None:
    before = filled.difference(None)
    pair = next(pair for pair, held in before.grants.items() if held and held.limited)
    filled.change(lambda tx: tx.grants.remove("web1", "mail"))
    assert filled.difference(before.standing).grants == {pair: None}


def test_a_snapshot_stays_as_it_is_when_there_is_a_later_one(filled: Store) -> None:
    before = Snapshot.of(filled.difference(None))
    again = Snapshot.of(filled.difference(None))
    for name, (change, _) in CHANGES.items():
        if name in {"grant added", "client renamed", "key removed", "CA not trusted"}:
            filled.change(change)
    before.updated(filled.difference(before.standing))
    assert before.index == again.index


def test_several_changes_are_one_difference(filled: Store) -> None:
    """Names, keys and public keys change hands."""
    before = Snapshot.of(filled.difference(None))
    shop = filled.query(lambda tx: tx.keys.get("shop"))
    credential = filled.query(lambda tx: tx.clients.get("web1")).credentials[0]
    for change in (
        lambda tx: tx.clients.rename("web2", "web3"),
        lambda tx: tx.clients.rename("web1", "web2"),
        lambda tx: tx.clients.rename("web3", "web1"),
        lambda tx: tx.clients.remove("web2"),
        lambda tx: tx.clients.add("web2", FRONT_END, LATER, credential),
        lambda tx: tx.keys.remove("shop"),
        lambda tx: tx.keys.rename("mail", "shop"),
        lambda tx: tx.keys.add(replace(shop, name="mail")),
        lambda tx: tx.grants.add("web1", "mail", {Purpose.TLS12_SERVER}),
        lambda tx: tx.grants.add("web2", "mail", {Purpose.TLS13_SERVER}),
    ):
        filled.change(change)
    difference = filled.difference(before.standing)
    assert not difference.whole
    assert before.updated(difference).index == Snapshot.of(filled.difference(None)).index


def test_writes_of_an_earlier_release_are_noted(filled: Store) -> None:
    """It raises the version, and knows nothing of notes."""
    before = Snapshot.of(filled.difference(None))
    with filled._engine.begin() as connection:
        connection.execute(text("UPDATE state SET version = version + 1"))
        connection.execute(text("DELETE FROM grants WHERE client_id = 1"))
        connection.execute(text("UPDATE clients SET name = 'web5' WHERE name = 'web2'"))
    difference = filled.difference(before.standing)
    assert not difference.whole
    assert changed(difference) == {"clients", "grants"}
    assert before.updated(difference).index == Snapshot.of(filled.difference(None)).index


def test_a_key_that_an_earlier_release_made_is_missed_in_the_history(filled: Store) -> None:
    before = standing(filled)
    with filled._engine.begin() as connection:
        connection.execute(text("UPDATE state SET version = version + 1"))
        connection.execute(text("UPDATE keys SET name = 'store' WHERE name = 'shop'"))
    assert filled.difference(before).history_behind
    filled.change(lambda tx: tx.history.catch_up(LATER))
    assert not filled.difference(before).history_behind
    with filled._engine.begin() as connection:
        connection.execute(text("UPDATE state SET version = version + 1"))
        connection.execute(text("DELETE FROM keys WHERE name = 'mail'"))
    assert filled.difference(before).history_behind


def test_old_notes_are_removed_and_everything_is_read_then(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_notes, "MOST_NOTES", 10)
    monkeypatch.setattr(change_notes, "PRUNE_EVERY", 4)
    before = standing(filled)
    versions = []
    for number in range(40):
        filled.change(lambda tx, to=("web3", "web1")[number % 2]: tx.clients.rename(_web(tx), to))
        versions.append(standing(filled))
    with filled._engine.connect() as connection:
        assert 10 <= (connection.scalar(text("SELECT count(*) FROM changes")) or 0) <= 10 + 4
    assert filled.difference(before).whole
    assert not filled.difference(versions[-9]).whole
    for known in versions:
        difference = filled.difference(known)
        assert difference.whole or len(difference.clients) == (known != versions[-1])


def _web(tx: Transaction) -> str:
    return next(client.name for client in tx.clients.all() if client.name in {"web1", "web3"})


def test_after_a_restore_everything_is_read(filled: Store, restored: Callable[[bytes], Store]) -> None:
    document = filled.export()
    assert b'"changes"' not in document
    other = restored(document)
    known = standing(filled)
    assert other.version() == known.version
    assert other.difference(known).whole
    at = standing(other)
    assert not other.difference(replace(at, version=at.version)).whole
    assert other.difference(replace(at, version=at.version + 1)).whole
    with other._engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM changes")) == 0


def test_all_rows_are_read_in_parts_with_pauses(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from hsmd.daemon.store import difference_rows

    whole, pauses = filled.difference(None), []
    monkeypatch.setattr(difference_rows, "_PART", 1)
    assert filled.difference(None, lambda: pauses.append(1)) == whole
    assert len(pauses) > len(whole.clients) + len(whole.keys) + len(whole.grants)
