"""Keys and certificates in the store, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from hsmd.algorithms import KeyType
from hsmd.daemon.store import CertificateRecord, KeyRecord, Store
from hsmd.errors import BadRequest, Conflict, NotFound
from hsmd.purposes import Purpose

MakeKey = Callable[..., KeyRecord]


def test_a_key_comes_back_as_it_was_put_in(store: Store, make_key: MakeKey) -> None:
    key = make_key("web", purposes=("tls-server", "tls13-client"))
    store.change(lambda tx: tx.keys.add(key))
    assert store.query(lambda tx: tx.keys.get("web")) == key
    assert store.load().keys == (key,)


def test_times_in_any_zone_are_kept(store: Store, make_key: MakeKey, now: datetime) -> None:
    elsewhere = now.astimezone(timezone(timedelta(hours=-7)))
    store.change(lambda tx: tx.keys.add(replace(make_key("web"), created_at=elsewhere)))
    read = store.query(lambda tx: tx.keys.get("web")).created_at
    assert read == now
    assert read.utcoffset() == timedelta(0)


def test_a_name_is_taken_once(store: Store, make_key: MakeKey) -> None:
    store.change(lambda tx: tx.keys.add(make_key("web")))
    with pytest.raises(Conflict, match="named web exists already"):
        store.change(lambda tx: tx.keys.add(make_key("web", seed="another")))
    store.change(lambda tx: tx.keys.add(make_key("Web")))  # names are case-sensitive


def test_a_key_is_served_under_one_name(store: Store, make_key: MakeKey) -> None:
    store.change(lambda tx: tx.keys.add(make_key("web")))
    with pytest.raises(Conflict, match="under the name web"):
        store.change(lambda tx: tx.keys.add(make_key("other", seed="web")))


@pytest.mark.parametrize("name", ["", "a" * 65, "-a", "a b", "a\n", "ä", "a/b", "a\x00", "\ud800"])
def test_an_invalid_name_is_refused_and_never_found(store: Store, make_key: MakeKey, name: str) -> None:
    with pytest.raises(BadRequest, match=r"^name: "):
        store.change(lambda tx: tx.keys.add(replace(make_key("web"), name=name)))
    with pytest.raises(NotFound):
        store.query(lambda tx: tx.keys.get(name))
    with pytest.raises(NotFound):
        store.change(lambda tx: tx.keys.remove(name))


def test_an_invalid_ceiling_is_refused(store: Store, make_key: MakeKey) -> None:
    mixed = frozenset({Purpose.TLS13_SERVER, Purpose.TLS12_RSA_PREMASTER})
    with pytest.raises(BadRequest, match="either signs or decrypts"):
        store.change(
            lambda tx: tx.keys.add(replace(make_key("web", key_type=KeyType.RSA_2048), purposes=mixed))
        )
    assert store.load().keys == ()


def test_pages_follow_the_order_of_bytes(store: Store, make_key: MakeKey) -> None:
    names = sorted(["b", "B", "a-b", "a.b", "a_b", "ab", "a0", "Z", "z", "9"])
    for name in reversed(names):
        store.change(lambda tx: tx.keys.add(make_key(name)))
    assert [key.name for key in store.query(lambda tx: tx.keys.page("", 500)).items] == names
    seen: list[str] = []
    more = True
    while more:
        page = store.query(lambda tx: tx.keys.page(seen[-1] if seen else "", 3))
        assert len(page.items) <= 3
        seen += [key.name for key in page.items]
        more = page.more
    assert seen == names


def test_a_page_that_ends_exactly_has_no_more(store: Store, make_key: MakeKey) -> None:
    store.change(lambda tx: tx.keys.add(make_key("a")))
    store.change(lambda tx: tx.keys.add(make_key("b")))
    assert store.query(lambda tx: tx.keys.page("", 2)).more is False
    assert store.query(lambda tx: tx.keys.page("", 1)).more is True
    assert store.query(lambda tx: tx.keys.page("b", 1)).items == ()


def test_pages_can_be_limited_to_digests(store: Store, make_key: MakeKey) -> None:
    keys = [make_key(f"k{number:03}") for number in range(30)]
    for key in keys:
        store.change(lambda tx: tx.keys.add(key))
    wanted = {key.digest for key in keys[::3]}
    # More digests than fit into one statement, most of them unknown.
    unknown = {number.to_bytes(32, "big") for number in range(1200)}
    page = store.query(lambda tx: tx.keys.page("k003", 5, wanted | unknown))
    assert [key.name for key in page.items] == ["k006", "k009", "k012", "k015", "k018"]
    assert page.more
    assert store.query(lambda tx: tx.keys.page("", 5, set())).items == ()


@pytest.mark.parametrize("after", ["a b", "\x00", "\ud800", "x" * 65])
def test_a_page_follows_a_valid_name(store: Store, after: str) -> None:
    with pytest.raises(BadRequest, match=r"^after: "):
        store.query(lambda tx: tx.keys.page(after, 5))


def test_a_removed_key_is_gone_and_its_name_free(store: Store, make_key: MakeKey) -> None:
    store.change(lambda tx: tx.keys.add(make_key("web")))
    store.change(lambda tx: tx.keys.remove("web"))
    with pytest.raises(NotFound):
        store.query(lambda tx: tx.keys.get("web"))
    with pytest.raises(NotFound):
        store.change(lambda tx: tx.keys.remove("web"))
    store.change(lambda tx: tx.keys.add(make_key("web", seed="another")))


def test_certificates_are_replaced_and_go_with_their_key(
    store: Store, make_key: MakeKey, now: datetime
) -> None:
    store.change(lambda tx: tx.keys.add(make_key("web")))
    with pytest.raises(NotFound, match="no certificate"):
        store.query(lambda tx: tx.certificates.get("web"))
    store.change(lambda tx: tx.certificates.set("web", "first", now))
    store.change(lambda tx: tx.certificates.set("web", "second", now + timedelta(days=1)))
    expected = CertificateRecord("web", "second", now + timedelta(days=1))
    assert store.query(lambda tx: tx.certificates.get("web")) == expected
    assert store.load().certificates == (expected,)
    store.change(lambda tx: tx.keys.remove("web"))
    store.change(lambda tx: tx.keys.add(make_key("web")))
    assert store.load().certificates == ()
    with pytest.raises(NotFound, match="no key"):
        store.change(lambda tx: tx.certificates.set("unknown", "chain", now))
    with pytest.raises(NotFound, match="no key"):
        store.query(lambda tx: tx.certificates.get("unknown"))
