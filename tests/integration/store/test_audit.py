"""What the store knows of audit logs, and who owns which key, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from threading import Thread

import pytest

from hsmd.daemon.store import AuditHead, KeyRecord, OwnerRecord, Store
from hsmd.errors import Conflict, NotFound
from hsmd.protocol.roles import Role

EAST = "hsmd/east"


def head(size: int, root: int = 1, origin: str = EAST) -> AuditHead:
    return AuditHead(origin, size, bytes([root]) * 32, f"{origin}+key")


def test_the_newest_state_is_remembered_and_an_older_one_changes_nothing(store: Store) -> None:
    assert store.audit_head(EAST) is None
    before = store.version()
    for state in (head(5), head(9, 2), head(7, 3), head(9, 4)):
        store.advance_audit_head(state)
    store.advance_audit_head(head(1, 5, "hsmd/west"))
    assert store.audit_head(EAST) == head(9, 2)
    assert store.audit_head("hsmd/west") == head(1, 5, "hsmd/west")
    assert store.version() == before, "checkpoints are no reason to read the catalogue anew"


def test_of_many_at_once_the_newest_stays(store: Store) -> None:
    store.advance_audit_head(head(0))
    threads = [Thread(target=store.advance_audit_head, args=(head(size, size),)) for size in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.audit_head(EAST) == head(8, 8)


def test_a_declaration_counts_for_more_than_what_was_remembered(store: Store) -> None:
    store.advance_audit_head(head(9))
    store.declare_discontinuity(head(4, 2), "2026-01-02T00:00:00.000000Z", "first")
    assert store.audit_head(EAST) == head(4, 2)
    for declared in ("2026-01-02T00:00:00.000000Z", "2026-01-01T00:00:00.000000Z"):
        with pytest.raises(Conflict, match="declared at that time"):
            store.declare_discontinuity(head(1, 3), declared, "again")
    assert store.audit_head(EAST) == head(4, 2)
    store.declare_discontinuity(head(2, 3), "2026-01-03T00:00:00.000000Z", "second")
    assert store.discontinuities(EAST) == ["first", "second"]
    assert store.discontinuities("hsmd/west") == []


def test_owners_come_and_go_with_key_and_client(
    store: Store, make_key: Callable[..., KeyRecord], now: datetime
) -> None:
    site, mail = make_key("site"), make_key("mail")
    for key in (site, mail):
        store.add_key(key)
    for client in ("team", "other"):
        store.add_client(client, Role.FRONT_END, now)
    version = store.version()
    assert store.add_key_owner("site", "team")
    assert not store.add_key_owner("site", "team")
    assert store.add_key_owner("mail", "other")
    assert store.version() > version
    assert (
        store.load().owners
        == store.key_owners()
        == (
            OwnerRecord("mail", mail.digest, "other"),
            OwnerRecord("site", site.digest, "team"),
        )
    )
    for key, client in (("nothing", "team"), ("site", "nobody"), ("\0", "team")):
        with pytest.raises(NotFound):
            store.add_key_owner(key, client)
    store.remove_key("mail")
    assert store.remove_key_owner("site", "team")
    assert not store.remove_key_owner("site", "team")
    assert store.key_owners() == ()
    store.add_key_owner("site", "team")
    store.remove_client("team")
    assert store.key_owners() == ()
