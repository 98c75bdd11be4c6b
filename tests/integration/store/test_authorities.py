"""Authorities and what they have issued: each serial number is there before it is signed, and lists have numbers once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from hsmd.daemon.store import AuthorityRecord, IssuedRecord, Store
from hsmd.errors import NotFound
from tests.support.store import NOW, key_record

AUTHORITY = AuthorityRecord(
    "root", '{"path_length":1}', ("http://ca.example.com/1.crl",), 604_800, "other", b"a public key"
)


def issued(number: int, authority: str = "root", days: int = 90) -> IssuedRecord:
    return IssuedRecord(
        authority, f"{number:032x}", "server", "www.example.com", ("www.example.com", "192.0.2.1"),
        number.to_bytes(32), NOW, NOW + timedelta(days=days),
    )  # fmt: skip


@pytest.fixture
def filled(store: Store) -> Store:
    """Two authorities; `root` has issued five certificates."""
    with store.write() as tx:
        for name in ("root", "issuing", "www"):
            tx.keys.add(key_record(name))
        tx.authorities.add(AUTHORITY)
        tx.authorities.add(AuthorityRecord("issuing", "{}", (), 3_600))
        for number in range(5):
            tx.issued.begin(issued(number))
            tx.issued.finish("root", f"{number:032x}", b"certificate %d" % number)
        tx.issued.begin(issued(1, "issuing"))
    return store


def test_an_authority_is_what_was_added(filled: Store) -> None:
    assert filled.query(lambda tx: tx.authorities.get("root")) == AUTHORITY
    assert filled.query(lambda tx: tx.authorities.get("issuing")).next_public_key == b""
    first = filled.query(lambda tx: tx.authorities.page("", 1))
    assert ([each.key for each in first.items], first.more) == (["issuing"], True)
    assert [each.key for each in filled.query(lambda tx: tx.authorities.page("issuing", 9)).items] == ["root"]
    for name in ("www", "nothing"):
        with pytest.raises(NotFound):
            filled.query(lambda tx, name=name: tx.authorities.get(name))


def test_certificates_are_listed_in_pages_and_by_serial(filled: Store) -> None:
    first = filled.query(lambda tx: tx.issued.page("root", 0, 2, revoked=False))
    assert first.items == tuple(replace(issued(n), certificate=b"certificate %d" % n) for n in (0, 1))
    rest = filled.query(lambda tx: tx.issued.page("root", first.items[-1].row, 9, revoked=False))
    assert ([each.serial for each in rest.items], rest.more) == ([f"{n:032x}" for n in (2, 3, 4)], False)
    assert filled.query(lambda tx: tx.issued.get("issuing", f"{1:032x}")) == issued(1, "issuing")
    for serial in (f"{2:032x}", "", "\0", "\ud800", "1" * 41):
        with pytest.raises(NotFound):
            filled.query(lambda tx, serial=serial: tx.issued.get("issuing", serial))


def test_what_is_revoked_stays_so_with_its_first_reason(filled: Store) -> None:
    def revoke(number: int, reason: str, days: int) -> bool:
        at = NOW + timedelta(days=days)
        return filled.change(lambda tx: tx.issued.revoke("root", f"{number:032x}", reason, at))

    assert revoke(3, "key-compromise", 2)
    assert revoke(1, "superseded", 1)
    assert not revoke(3, "unspecified", 5)
    found = filled.query(lambda tx: tx.issued.revoked("root", NOW, 9))
    assert [(each.serial[-1], each.reason) for each in found] == [
        ("1", "superseded"),
        ("3", "key-compromise"),
    ]
    assert found[1].revoked_at == NOW + timedelta(days=2)
    assert len(filled.query(lambda tx: tx.issued.revoked("root", NOW, 1))) == 1
    assert filled.query(lambda tx: tx.issued.revoked("root", NOW + timedelta(days=90), 9)) == []
    assert filled.query(lambda tx: tx.issued.revoked("issuing", NOW, 9)) == []
    listed = filled.query(lambda tx: tx.issued.page("root", 0, 9, revoked=True))
    assert [each.serial[-1] for each in listed.items] == ["1", "3"]
    with pytest.raises(NotFound):
        revoke(9, "superseded", 1)


def test_only_a_certificate_that_was_not_signed_is_discarded(filled: Store) -> None:
    filled.change(lambda tx: tx.issued.discard("issuing", f"{1:032x}"))
    filled.change(lambda tx: tx.issued.discard("root", f"{1:032x}"))
    with pytest.raises(NotFound):
        filled.query(lambda tx: tx.issued.get("issuing", f"{1:032x}"))
    assert filled.query(lambda tx: tx.issued.get("root", f"{1:032x}")).certificate


def test_a_list_has_a_number_of_its_own_and_the_newest_stays(filled: Store) -> None:
    numbers = [filled.change(lambda tx: tx.authorities.next_list_number("root", NOW)) for _ in range(3)]
    first = int(NOW.timestamp())
    assert numbers == [first, first + 1, first + 2]
    ends = NOW + timedelta(days=7)
    assert filled.change(lambda tx: tx.authorities.set_list("root", numbers[2], b"newest", ends))
    assert not filled.change(lambda tx: tx.authorities.set_list("root", numbers[1], b"older", ends))
    found = filled.query(lambda tx: tx.authorities.get("root"))
    assert (found.list_number, found.list_der, found.list_ends) == (numbers[2], b"newest", ends)


def test_numbers_of_lists_go_on_whatever_the_clock_says_and_after_a_restore(filled: Store) -> None:
    """The time carries them beyond those that a restored database has forgotten; a clock that is set back does not."""
    later, earlier = NOW + timedelta(days=1), NOW - timedelta(days=1)
    number = filled.change(lambda tx: tx.authorities.next_list_number("root", later))
    assert number == int(later.timestamp())
    assert filled.change(lambda tx: tx.authorities.next_list_number("root", earlier)) == number + 1


def test_a_destroyed_key_takes_its_authority_along(filled: Store) -> None:
    filled.change(lambda tx: tx.keys.remove("root", NOW))
    with pytest.raises(NotFound):
        filled.query(lambda tx: tx.authorities.get("root"))
    assert [each.key for each in filled.query(lambda tx: tx.authorities.page("", 9)).items] == ["issuing"]


def test_a_backup_has_authorities_and_certificates(filled: Store, restored: Callable[[bytes], Store]) -> None:
    filled.change(lambda tx: tx.issued.revoke("root", f"{2:032x}", "superseded", NOW))
    again = restored(filled.export())
    assert again.query(lambda tx: tx.authorities.get("root")) == AUTHORITY
    everything = lambda tx: tx.issued.page("root", 0, 99, revoked=False).items  # noqa: E731
    assert again.query(everything) == filled.query(everything)
