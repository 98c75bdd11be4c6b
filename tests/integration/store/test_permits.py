"""What certificates nodes get from authorities, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from hsmd.daemon.store import AuthorityRecord, IssuedRecord, PermitRecord, PermitUse, Store
from hsmd.errors import BadRequest, NotFound
from hsmd.protocol.roles import Role
from tests.support.store import NOW, key_record

HOUR = timedelta(hours=1)
PERMIT = PermitRecord(
    "root", "web", "server", "", ("www.example.com", "*.example.com"), ("192.0.2.1",), ("a@example.com",), 3_600, NOW
)  # fmt: skip


@pytest.fixture
def filled(store: Store) -> Store:
    """Two authorities; nodes `web` and `mail`, the first with a permit of `root`; a front end `shop`."""
    with store.write() as tx:
        for name in ("root", "other", "www"):
            tx.keys.add(key_record(name))
        for name in ("root", "other"):
            tx.authorities.add(
                AuthorityRecord(name, "{}", (), 3_600, next_public_key=f"next of {name}".encode())
            )
        for name, role in (("web", Role.NODE), ("mail", Role.NODE), ("shop", Role.FRONT_END)):
            tx.clients.add(name, frozenset({role, Role.CHECKER}), NOW)
        assert tx.permits.put(PERMIT)
    return store


def put(store: Store, permit: PermitRecord) -> bool:
    return store.change(lambda tx: tx.permits.put(permit))


def find(store: Store, authority: str, client: str) -> PermitRecord | None:
    return store.query(lambda tx: tx.permits.find(authority, client))


def begin(store: Store, number: int, ends: timedelta, client: str = "web", authority: str = "root") -> None:
    record = IssuedRecord(
        authority, f"{number:x}", "server", "", (), bytes(32), NOW, NOW + ends, client=client
    )
    store.change(lambda tx: tx.issued.begin(record))


def test_a_permit_is_what_was_put_and_the_newest_counts(filled: Store) -> None:
    found = find(filled, "root", "web")
    assert found == PERMIT and found.since == NOW
    assert not put(filled, replace(PERMIT, since=NOW + HOUR))
    changed = replace(PERMIT, profile="client", common_name="alice", dns_names=(), term_s=0)
    assert put(filled, changed)
    assert find(filled, "root", "web") == changed
    assert len(filled.query(lambda tx: tx.permits.page("root", "", 9)).items) == 1


@pytest.mark.parametrize(
    ("authority", "client"),
    [("other", "web"), ("root", "mail"), ("www", "web"), ("\0", "web"), ("root", "é")],
)
def test_without_a_permit_nothing_is_found(filled: Store, authority: str, client: str) -> None:
    assert find(filled, authority, client) is None
    assert filled.change(lambda tx: tx.permits.lock(authority, client)) is None


@pytest.mark.parametrize(
    ("authority", "client", "error"),
    [("root", "shop", BadRequest), ("root", "nobody", NotFound), ("www", "web", NotFound)],
)
def test_only_nodes_and_authorities_have_permits(
    filled: Store, authority: str, client: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        put(filled, replace(PERMIT, authority=authority, client=client))


def test_permits_come_in_pages(filled: Store) -> None:
    put(filled, replace(PERMIT, client="mail"))
    put(filled, replace(PERMIT, authority="other"))
    first = filled.query(lambda tx: tx.permits.page("root", "", 1))
    assert ([each.client for each in first.items], first.more) == (["mail"], True)
    rest = filled.query(lambda tx: tx.permits.page("root", "mail", 9))
    assert ([each.client for each in rest.items], rest.more) == (["web"], False)
    with pytest.raises(NotFound):
        filled.query(lambda tx: tx.permits.page("www", "", 9))


def test_a_permit_follows_its_client_and_its_authority(filled: Store) -> None:
    filled.change(lambda tx: tx.clients.rename("web", "web-2", NOW))
    filled.change(lambda tx: tx.keys.rename("root", "root-2", NOW))
    assert find(filled, "root", "web") is None
    assert find(filled, "root-2", "web-2") == replace(PERMIT, authority="root-2", client="web-2")
    filled.change(lambda tx: tx.clients.add("web", frozenset({Role.NODE}), NOW))
    assert find(filled, "root-2", "web") is None


@pytest.mark.parametrize("how", ["disallow", "client", "role", "authority"])
def test_a_permit_goes_with_what_it_is_about(filled: Store, how: str) -> None:
    put(filled, replace(PERMIT, client="mail"))
    put(filled, replace(PERMIT, authority="other"))
    begin(filled, 1, HOUR)
    with filled.write() as tx:
        if how == "disallow":
            assert tx.permits.remove("root", "web")
            assert not tx.permits.remove("root", "web")
        elif how == "client":
            tx.clients.remove("web")
        elif how == "role":
            tx.clients.remove_role("web", Role.NODE)
        else:
            tx.keys.remove("root", NOW)
    assert find(filled, "root", "web") is None
    assert (find(filled, "root", "mail") is None) == (how == "authority")
    assert (find(filled, "other", "web") is None) == (how in ("client", "role"))
    if how == "client":
        issued = filled.query(lambda tx: tx.issued.get("root", "1"))
        assert issued.client == ""
        filled.change(lambda tx: tx.clients.add("web", frozenset({Role.NODE}), NOW))
        assert filled.query(lambda tx: tx.permits.use("root", "web", NOW)) == PermitUse(0, None, None)


def test_certificates_count_until_they_end(filled: Store) -> None:
    for number, ends in ((1, HOUR), (2, 3 * HOUR), (3, 2 * HOUR)):
        begin(filled, number, ends)
    begin(filled, 4, 9 * HOUR, client="mail")
    begin(filled, 5, 9 * HOUR, client="")
    begin(filled, 6, 9 * HOUR, authority="other")
    use = lambda after: filled.query(lambda tx: tx.permits.use("root", "web", NOW + after))  # noqa: E731
    assert use(0 * HOUR) == PermitUse(3, NOW + HOUR, NOW + 3 * HOUR)
    assert use(HOUR) == PermitUse(2, NOW + 2 * HOUR, NOW + 3 * HOUR)
    assert use(3 * HOUR) == PermitUse(0, None, None)
    listed = filled.query(lambda tx: tx.issued.page("root", 0, 9, revoked=False)).items
    assert [each.client for each in listed] == ["web", "web", "web", "mail", ""]


def test_the_next_key_of_an_authority_is_known(filled: Store) -> None:
    assert filled.query(lambda tx: tx.authorities.has_next_key(b"next of other"))
    assert not filled.query(lambda tx: tx.authorities.has_next_key(b"next"))


def test_requests_at_two_daemons_are_counted_one_after_the_other(
    filled: Store, make_store: Callable[[], Store]
) -> None:
    """Whoever has the lock sees the certificates that the one before it has noted."""
    other = make_store()

    def count(store: Store, number: int) -> int:
        with store.write(versioned=False) as tx:
            assert tx.permits.lock("root", "web") == PERMIT
            found = tx.permits.use("root", "web", NOW).count
            tx.issued.begin(
                IssuedRecord(
                    "root", f"{number:x}", "server", "", (), bytes(32), NOW, NOW + HOUR, client="web"
                )
            )
            return found

    with ThreadPoolExecutor(8) as pool:
        stores = (filled, other) * 4
        counts = list(pool.map(count, stores, range(1, 9)))
    assert sorted(counts) == list(range(8))


def test_a_key_that_is_destroyed_meanwhile_waits_for_the_note_of_a_certificate(
    filled: Store, make_store: Callable[[], Store]
) -> None:
    """Neither ends in a deadlock: the authority's row is locked before the permit."""
    other = make_store()
    with ThreadPoolExecutor(1) as pool:
        with filled.write(versioned=False) as tx:
            assert tx.permits.lock("root", "web") == PERMIT
            removed = pool.submit(other.change, lambda tx: tx.keys.remove("root", NOW))
            with pytest.raises(TimeoutError):
                removed.result(0.3)
            tx.issued.begin(
                IssuedRecord("root", "1", "server", "", (), bytes(32), NOW, NOW + HOUR, client="web")
            )
        removed.result(30)
    assert find(filled, "root", "web") is None


def test_a_backup_has_permits_and_whom_certificates_were_issued_to(
    filled: Store, restored: Callable[[bytes], Store]
) -> None:
    begin(filled, 1, HOUR)
    again = restored(filled.export())
    assert find(again, "root", "web") == PERMIT
    assert again.query(lambda tx: tx.permits.use("root", "web", NOW)) == PermitUse(1, NOW + HOUR, NOW + HOUR)
