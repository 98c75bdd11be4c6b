"""States of audit logs, endorsements of statement keys, and readers of keys, in the store, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from threading import Thread

import pytest

from hsmd.daemon.store import AuditHead, KeyRecord, ReaderRecord, Store
from hsmd.errors import Conflict, NotFound
from hsmd.protocol.roles import Role

EAST = "hsmd/east"


def head(size: int, root: int = 1, origin: str = EAST) -> AuditHead:
    return AuditHead(origin, size, bytes([root]) * 32, f"{origin}+key")


def test_the_newest_state_is_remembered_and_an_older_one_changes_nothing(store: Store) -> None:
    assert store.query(lambda tx: tx.audit_logs.head(EAST)) is None
    before = store.version()
    for state in (head(5), head(9, 2), head(7, 3), head(9, 4)):
        store.change(lambda tx: tx.audit_logs.advance_head(state), versioned=False)
    store.change(lambda tx: tx.audit_logs.advance_head(head(1, 5, "hsmd/west")), versioned=False)
    assert store.query(lambda tx: tx.audit_logs.head(EAST)) == head(9, 2)
    assert store.query(lambda tx: tx.audit_logs.head("hsmd/west")) == head(1, 5, "hsmd/west")
    assert store.version() == before, "a checkpoint must not make daemons reload their snapshots"


def test_of_many_at_once_the_newest_stays(store: Store) -> None:
    store.change(lambda tx: tx.audit_logs.advance_head(head(0)), versioned=False)

    def advance(state: AuditHead) -> None:
        store.change(lambda tx: tx.audit_logs.advance_head(state), versioned=False)

    threads = [Thread(target=advance, args=(head(size, size),)) for size in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.query(lambda tx: tx.audit_logs.head(EAST)) == head(8, 8)


def test_a_declaration_replaces_the_remembered_state(store: Store) -> None:
    store.change(lambda tx: tx.audit_logs.advance_head(head(9)), versioned=False)
    store.change(
        lambda tx: tx.audit_logs.declare_discontinuity(head(4, 2), "2026-01-02T00:00:00.000000Z", "first")
    )
    assert store.query(lambda tx: tx.audit_logs.head(EAST)) == head(4, 2)
    for declared in ("2026-01-02T00:00:00.000000Z", "2026-01-01T00:00:00.000000Z"):
        with pytest.raises(Conflict, match="declared at that time"):
            store.change(lambda tx: tx.audit_logs.declare_discontinuity(head(1, 3), declared, "again"))
    assert store.query(lambda tx: tx.audit_logs.head(EAST)) == head(4, 2)
    store.change(
        lambda tx: tx.audit_logs.declare_discontinuity(head(2, 3), "2026-01-03T00:00:00.000000Z", "second")
    )
    assert store.query(lambda tx: tx.audit_logs.discontinuities(EAST)) == ["first", "second"]
    assert store.query(lambda tx: tx.audit_logs.discontinuities("hsmd/west")) == []


def test_readers_come_and_go_with_key_and_client(
    store: Store, make_key: Callable[..., KeyRecord], now: datetime
) -> None:
    site, mail = make_key("site"), make_key("mail")
    for key in (site, mail):
        store.change(lambda tx: tx.keys.add(key))
    for client in ("team", "other"):
        store.change(lambda tx: tx.clients.add(client, frozenset({Role.FRONT_END}), now))
    version = store.version()
    assert store.change(lambda tx: tx.readers.add("site", "team"))
    assert not store.change(lambda tx: tx.readers.add("site", "team"))
    assert store.change(lambda tx: tx.readers.add("mail", "other"))
    assert store.version() > version
    readers = [ReaderRecord("mail", mail.digest, "other"), ReaderRecord("site", site.digest, "team")]
    assert store.query(lambda tx: tx.readers.all()) == readers
    for key, client in (("nothing", "team"), ("site", "unknown"), ("\0", "team")):
        with pytest.raises(NotFound):
            store.change(lambda tx: tx.readers.add(key, client))
    store.change(lambda tx: tx.keys.remove("mail"))
    assert store.change(lambda tx: tx.readers.remove("site", "team"))
    assert not store.change(lambda tx: tx.readers.remove("site", "team"))
    assert store.query(lambda tx: tx.readers.all()) == []
    store.change(lambda tx: tx.readers.add("site", "team"))
    store.change(lambda tx: tx.clients.remove("team"))
    assert store.query(lambda tx: tx.readers.all()) == []


def test_the_logs_of_all_daemons_are_known_by_name(store: Store) -> None:
    for origin in ("hsmd/west", EAST):
        store.change(lambda tx: tx.audit_logs.advance_head(head(1, origin=origin)), versioned=False)
    assert store.query(lambda tx: tx.audit_logs.origins()) == [EAST, "hsmd/west"]


def test_endorsements_are_kept_in_their_order_and_reach_every_daemon(store: Store) -> None:
    before = store.version()
    store.change(lambda tx: tx.statement_endorsements.add("2026-01-02T00:00:00.000000Z", "first\n"))
    store.change(lambda tx: tx.statement_endorsements.add("2026-01-03T00:00:00.000000Z", "second\n"))
    assert store.load().statement_endorsements == ("first\n", "second\n")
    assert store.version() > before, "daemons that share the store must notice it"
    for late in ("2026-01-03T00:00:00.000000Z", "2026-01-02T12:00:00.000000Z"):
        with pytest.raises(Conflict, match="sign a new note"):
            store.change(lambda tx: tx.statement_endorsements.add(late, "third\n"))
    assert store.load().statement_endorsements == ("first\n", "second\n")
