"""Grants in the store, on both databases: valid grants, and their removal with client or key."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pytest

from hsmd.algorithms import KeyType
from hsmd.daemon.store import CredentialRecord, GrantRecord, KeyRecord, Store
from hsmd.errors import BadRequest, NotFound
from hsmd.protocol.roles import Role
from hsmd.purposes import Purpose, expand

TLS13, TLS12 = Purpose.TLS13_SERVER, Purpose.TLS12_SERVER
MakeKey = Callable[..., KeyRecord]


@pytest.fixture(autouse=True)
def world(store: Store, make_key: MakeKey, now: datetime) -> None:
    store.change(lambda tx: tx.keys.add(make_key("site")))
    store.change(lambda tx: tx.keys.add(make_key("mail")))
    store.change(
        lambda tx: tx.keys.add(make_key("old", purposes=("tls12-rsa-premaster",), key_type=KeyType.RSA_2048))
    )
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now))
    store.change(lambda tx: tx.clients.add("web2", frozenset({Role.FRONT_END}), now))
    store.change(lambda tx: tx.clients.add("ann", frozenset({Role.OPERATOR}), now))
    store.change(lambda tx: tx.clients.add("eve", frozenset({Role.AUDITOR}), now))


def held(store: Store, client: str, key: str) -> frozenset[Purpose]:
    return frozenset(
        purpose
        for grant in store.load().grants
        if (grant.client, grant.key) == (client, key)
        for purpose in grant.purposes
    )


def test_grants_add_up(store: Store, make_key: MakeKey) -> None:
    digest = make_key("site").digest
    assert store.change(lambda tx: tx.grants.add("web1", "site", [TLS13])) == GrantRecord(
        "web1", "site", digest, frozenset({TLS13})
    )
    both = GrantRecord("web1", "site", digest, frozenset({TLS13, TLS12}))
    assert store.change(lambda tx: tx.grants.add("web1", "site", [TLS12, TLS13])) == both
    assert store.change(lambda tx: tx.grants.add("web1", "site", expand(["tls-server"]))) == both
    assert store.load().grants == (both,)


def test_client_and_key_must_exist(store: Store) -> None:
    with pytest.raises(NotFound, match="client"):
        store.change(lambda tx: tx.grants.add("unknown", "site", [TLS13]))
    with pytest.raises(NotFound, match="key"):
        store.change(lambda tx: tx.grants.add("web1", "nothing", [TLS13]))
    with pytest.raises(NotFound, match="client"):
        store.change(lambda tx: tx.grants.remove("unknown", "site"))
    with pytest.raises(NotFound, match="key"):
        store.change(lambda tx: tx.grants.remove("web1", "nothing"))
    assert store.load().grants == ()


@pytest.mark.parametrize("client", ["ann", "eve"])
def test_only_a_front_end_holds_grants(store: Store, client: str) -> None:
    with pytest.raises(BadRequest, match=r"^client: .* only a front end"):
        store.change(lambda tx: tx.grants.add(client, "site", [TLS13]))
    assert store.load().grants == ()


@pytest.mark.parametrize(
    ("key", "purposes", "says"),
    [
        ("site", ["tls13-client"], "the key's purposes, fixed as"),
        ("site", ["tls13-server", "sign-message"], "the key's purposes, fixed as"),
        ("site", ["tls12-rsa-premaster"], "the key's purposes, fixed as"),
        ("old", ["tls13-server"], "the key's purposes, fixed as"),
        ("site", ["x509-request"], "with allowed names only"),
        ("site", ["tls13-server", "x509-self-signed"], "cannot be granted"),
        ("site", [], "at least one purpose"),
    ],
)
def test_nothing_beyond_the_ceiling_is_granted(
    store: Store, key: str, purposes: list[str], says: str
) -> None:
    with pytest.raises(BadRequest, match=says):
        store.change(lambda tx: tx.grants.add("web1", key, expand(purposes)))
    assert store.load().grants == ()


def test_purposes_are_taken_back_one_by_one_or_all(store: Store) -> None:
    store.change(lambda tx: tx.grants.add("web1", "site", [TLS13, TLS12]))
    store.change(lambda tx: tx.grants.add("web1", "mail", [TLS13]))
    store.change(lambda tx: tx.grants.add("web2", "site", [TLS13]))
    assert store.change(lambda tx: tx.grants.remove("web1", "site", [TLS12])) is True
    assert store.change(lambda tx: tx.grants.remove("web1", "site", [TLS12])) is False
    assert held(store, "web1", "site") == {TLS13}
    assert store.change(lambda tx: tx.grants.remove("web1", "site")) is True
    assert store.change(lambda tx: tx.grants.remove("web1", "site")) is False
    assert held(store, "web1", "site") == frozenset()
    assert held(store, "web1", "mail") == {TLS13}
    assert held(store, "web2", "site") == {TLS13}


def test_a_grant_does_not_carry_over_to_the_next_key_of_that_name(store: Store, make_key: MakeKey) -> None:
    store.change(lambda tx: tx.grants.add("web1", "site", [TLS13]))
    store.change(lambda tx: tx.keys.remove("site"))
    store.change(lambda tx: tx.keys.add(make_key("site", seed="another")))
    assert store.load().grants == ()
    store.change(lambda tx: tx.keys.remove("site"))
    store.change(lambda tx: tx.keys.add(make_key("site")))  # not even if it is the same key pair again
    assert store.load().grants == ()


def test_a_grant_does_not_carry_over_to_the_next_client_of_that_name(store: Store, now: datetime) -> None:
    store.change(lambda tx: tx.grants.add("web1", "site", [TLS13]))
    store.change(lambda tx: tx.clients.remove("web1"))
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now))
    assert store.load().grants == ()


def test_pages_follow_client_and_key(store: Store) -> None:
    for client in ("web2", "web1"):
        for key in ("site", "mail"):
            store.change(lambda tx: tx.grants.add(client, key, [TLS13, TLS12]))
    pairs = [("web1", "mail"), ("web1", "site"), ("web2", "mail"), ("web2", "site")]

    def listed(client: str = "", key: str = "", after: str = "", limit: int = 100) -> list[tuple[str, str]]:
        return [
            (grant.client, grant.key)
            for grant in store.query(lambda tx: tx.grants.page(client, key, after, limit)).items
        ]

    assert listed() == pairs
    assert listed(client="web1") == pairs[:2]
    assert listed(key="site") == [pairs[1], pairs[3]]
    assert listed(client="web2", key="mail") == [pairs[2]]
    assert listed(limit=3) == pairs[:3]
    assert store.query(lambda tx: tx.grants.page("", "", "", 3)).more
    assert listed(after="web1/site", limit=3) == pairs[2:]
    assert not store.query(lambda tx: tx.grants.page("", "", "web1/site", 2)).more
    assert store.query(lambda tx: tx.grants.page("", "", "web1/mail", 1)).items[0].purposes == {TLS13, TLS12}


def test_a_list_for_an_unknown_client_or_key_is_refused(store: Store) -> None:
    with pytest.raises(NotFound):
        store.query(lambda tx: tx.grants.page("unknown", "", "", 5))
    with pytest.raises(NotFound):
        store.query(lambda tx: tx.grants.page("", "not/a/name", "", 5))
    for after in ("web1", "web1/", "/site", "a/b/c", "\x00/b"):
        with pytest.raises(BadRequest, match=r"^after: "):
            store.query(lambda tx: tx.grants.page("", "", after, 5))


def test_the_version_changes_with_every_write_and_only_then(
    make_store: Callable[[], Store], make_key: MakeKey, now: datetime
) -> None:
    one, other = make_store(), make_store()
    writes: list[Callable[[], object]] = [
        lambda: one.change(lambda tx: tx.keys.add(make_key("new"))),
        lambda: one.change(lambda tx: tx.certificates.set("new", "chain", now)),
        lambda: one.change(lambda tx: tx.clients.add("web3", frozenset({Role.FRONT_END}), now)),
        lambda: one.change(
            lambda tx: tx.clients.add_credential("web3", CredentialRecord("SHA256:" + "c" * 43, "line"))
        ),
        lambda: one.change(lambda tx: tx.user_cas.trust("SHA256:" + "d" * 43, "line", ["web3"])),
        lambda: one.change(lambda tx: tx.grants.add("web3", "new", [TLS13])),
        lambda: one.change(lambda tx: tx.grants.remove("web3", "new", [TLS13])),
        lambda: one.change(lambda tx: tx.clients.remove("web3")),
        lambda: one.change(lambda tx: tx.keys.remove("new")),
    ]
    versions = [other.version()]
    for write in writes:
        write()
        versions.append(other.version())
        assert other.load().version == versions[-1]
    assert versions == sorted(set(versions))
    with pytest.raises(NotFound):
        one.change(lambda tx: tx.keys.remove("new"))
    assert other.version() == versions[-1]
