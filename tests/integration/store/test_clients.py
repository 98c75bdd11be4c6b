"""Clients, their credentials and trusted CAs in the store, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from hsmd.daemon.store import ClientRecord, CredentialRecord, EnrolmentRecord, Store, UserCaRecord
from hsmd.errors import BadRequest, Conflict, NotFound
from hsmd.protocol.roles import Role

MakeCredential = Callable[[str], CredentialRecord]
CA = "SHA256:" + "C" * 43


def test_a_client_comes_back_as_it_was_put_in(
    store: Store, make_credential: MakeCredential, now: datetime
) -> None:
    second, first = make_credential("b"), make_credential("a")
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now, second))
    store.change(lambda tx: tx.clients.add_credential("web1", first))
    store.change(lambda tx: tx.clients.add("ann", frozenset({Role.OPERATOR}), now))
    ann = ClientRecord("ann", frozenset({Role.OPERATOR}), (), now)
    web1 = ClientRecord("web1", frozenset({Role.FRONT_END}), (first, second), now)
    assert store.query(lambda tx: tx.clients.get("web1")) == web1
    assert store.load().clients == (ann, web1)
    assert store.query(lambda tx: tx.clients.page("", 1)).items == (ann,)
    assert store.query(lambda tx: tx.clients.page("", 1)).more
    assert store.query(lambda tx: tx.clients.page("ann", 1)).items == (web1,)
    assert not store.query(lambda tx: tx.clients.page("ann", 1)).more


def test_one_fingerprint_one_client(store: Store, make_credential: MakeCredential, now: datetime) -> None:
    shared = make_credential("a")
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now, shared))
    store.change(lambda tx: tx.clients.add("web2", frozenset({Role.FRONT_END}), now))
    for client in ("web1", "web2"):
        with pytest.raises(Conflict, match="web1 has this key already"):
            store.change(lambda tx: tx.clients.add_credential(client, shared))


def test_a_client_whose_credential_is_taken_is_not_added(
    store: Store, make_credential: MakeCredential, now: datetime
) -> None:
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now, make_credential("a")))
    with pytest.raises(Conflict):
        store.change(
            lambda tx: tx.clients.add("web2", frozenset({Role.FRONT_END}), now, make_credential("a"))
        )
    with pytest.raises(NotFound):
        store.query(lambda tx: tx.clients.get("web2"))


def test_names_are_taken_once(store: Store, now: datetime) -> None:
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now))
    with pytest.raises(Conflict, match="named web1 exists already"):
        store.change(lambda tx: tx.clients.add("web1", frozenset({Role.OPERATOR}), now))
    assert store.query(lambda tx: tx.clients.get("web1")).roles == {Role.FRONT_END}


@pytest.mark.parametrize("name", ["", "a b", "wеb", "a\n", "\x00", "-x"])
def test_an_invalid_name_is_refused(store: Store, now: datetime, name: str) -> None:
    with pytest.raises(BadRequest, match=r"^name: "):
        store.change(lambda tx: tx.clients.add(name, frozenset({Role.FRONT_END}), now))
    with pytest.raises(NotFound):
        store.query(lambda tx: tx.clients.get(name))
    with pytest.raises(NotFound):
        store.change(lambda tx: tx.clients.add_credential(name, CredentialRecord(CA, "line")))


@pytest.mark.parametrize("fingerprint", ["", "MD5:00:11", "SHA256:short", "SHA256:" + "x" * 44, "x" * 50])
def test_a_fingerprint_must_be_in_the_format_of_openssh(
    store: Store, now: datetime, fingerprint: str
) -> None:
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now))
    with pytest.raises(BadRequest, match=r"^public_key: "):
        store.change(lambda tx: tx.clients.add_credential("web1", CredentialRecord(fingerprint, "line")))
    with pytest.raises(BadRequest, match=r"^public_key: "):
        store.change(lambda tx: tx.user_cas.trust(fingerprint, "line", ["web1"]))


def test_a_removed_client_leaves_nothing_behind(
    store: Store, make_credential: MakeCredential, now: datetime
) -> None:
    credential = make_credential("a")
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now, credential))
    store.change(lambda tx: tx.user_cas.trust(CA, "ca line", ["web1"]))
    store.change(lambda tx: tx.clients.remove("web1"))
    assert store.load().clients == ()
    assert store.load().user_cas == ()
    with pytest.raises(NotFound):
        store.change(lambda tx: tx.clients.remove("web1"))
    store.change(lambda tx: tx.clients.add("web2", frozenset({Role.OPERATOR}), now, credential))
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.AUDITOR}), now))
    assert store.query(lambda tx: tx.clients.get("web1")) == ClientRecord(
        "web1", frozenset({Role.AUDITOR}), (), now
    )


def test_a_ca_is_trusted_for_the_clients_named_and_no_others(store: Store, now: datetime) -> None:
    for name in ("web1", "web2", "web3"):
        store.change(lambda tx: tx.clients.add(name, frozenset({Role.FRONT_END}), now))
    store.change(lambda tx: tx.user_cas.trust(CA, "ca line", ["web1", "web2", "web1"]))
    assert store.load().user_cas == (UserCaRecord(CA, "ca line", frozenset({"web1", "web2"})),)
    store.change(lambda tx: tx.user_cas.trust(CA, "ca line", ["web3"]))
    assert store.load().user_cas == (UserCaRecord(CA, "ca line", frozenset({"web3"})),)
    with pytest.raises(NotFound, match="there is no client 'unknown'"):
        store.change(lambda tx: tx.user_cas.trust(CA, "ca line", ["web1", "unknown"]))
    assert store.load().user_cas == (UserCaRecord(CA, "ca line", frozenset({"web3"})),)
    store.change(lambda tx: tx.user_cas.trust(CA, "ca line", []))
    assert store.load().user_cas == ()


def test_a_ca_outlives_one_of_its_clients(store: Store, now: datetime) -> None:
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now))
    store.change(lambda tx: tx.clients.add("web2", frozenset({Role.FRONT_END}), now))
    store.change(lambda tx: tx.user_cas.trust(CA, "ca line", ["web1", "web2"]))
    store.change(lambda tx: tx.clients.remove("web1"))
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now))
    assert store.load().user_cas == (UserCaRecord(CA, "ca line", frozenset({"web2"})),)


def test_the_end_of_an_invitation_is_known_until_it_is_used_or_over(
    store: Store, make_credential: MakeCredential, now: datetime
) -> None:
    for name in ("web1", "web2"):
        store.change(lambda tx, name=name: tx.clients.add(name, frozenset({Role.FRONT_END}), now))
    token = EnrolmentRecord("t1", "web1", b"s" * 32, now + timedelta(minutes=15))
    store.change(lambda tx: tx.enrolments.add(token, now))
    assert store.query(lambda tx: tx.enrolments.ends(["web1", "web2"], now)) == {"web1": token.expires_at}
    assert store.query(lambda tx: tx.enrolments.ends(["web1"], token.expires_at)) == {}
    store.change(lambda tx: tx.enrolments.use("t1", b"s" * 32, make_credential("a"), now))
    assert store.query(lambda tx: tx.enrolments.ends(["web1"], now)) == {}
