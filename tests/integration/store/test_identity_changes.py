"""Renames, revocations, CAs no longer trusted and one-time tokens in the store, on both databases."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from hashlib import sha256

import pytest

from hsmd.daemon.front.ledger.producers import replace_certificate
from hsmd.daemon.store import (
    CredentialRecord,
    EnrolmentRecord,
    KeyRecord,
    RevocationRecord,
    Store,
    Transaction,
)
from hsmd.daemon.store.enrolment_rows import MAX_TRIES
from hsmd.errors import BadRequest, Conflict, HsmdError, NotFound, Refused
from hsmd.protocol.roles import Role
from hsmd.purposes import Purpose

MakeCredential = Callable[[str], CredentialRecord]
MakeKey = Callable[..., KeyRecord]
MakeStore = Callable[[], Store]
CA = "SHA256:" + "C" * 43
SECRET = sha256(b"secret").digest()
MINUTE = timedelta(minutes=1)


@pytest.fixture
def token(now: datetime) -> EnrolmentRecord:
    return EnrolmentRecord("t1", "web1", SECRET, now + 15 * MINUTE)


# --- renames ---


def test_grants_and_credentials_follow_a_rename_and_a_reused_name_has_none(
    store: Store, make_credential: MakeCredential, make_key: MakeKey, now: datetime
) -> None:
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now, make_credential("a")))
    store.change(lambda tx: tx.keys.add(make_key("www")))
    store.change(lambda tx: tx.grants.add("web1", "www", [Purpose.TLS13_SERVER]))
    store.change(lambda tx: tx.user_cas.trust(CA, "line", ["web1"]))
    store.change(lambda tx: tx.clients.rename("web1", "web2"))
    store.change(lambda tx: tx.keys.rename("www", "old"))
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now))
    contents = store.load()
    assert [(grant.client, grant.key) for grant in contents.grants] == [("web2", "old")]
    assert contents.user_cas[0].clients == {"web2"}
    assert store.query(lambda tx: tx.clients.get("web1")).credentials == ()
    assert len(store.query(lambda tx: tx.clients.get("web2")).credentials) == 1


@pytest.mark.parametrize(
    ("name", "new_name", "error"),
    [
        ("unknown", "x", NotFound),
        ("web1", "web2", Conflict),
        ("web1", "web1", Conflict),
        ("web1", "w*", BadRequest),
    ],
)
def test_renames_that_are_refused(
    store: Store, make_key: MakeKey, now: datetime, name: str, new_name: str, error: type[HsmdError]
) -> None:
    for each in ("web1", "web2"):
        store.change(lambda tx: tx.clients.add(each, frozenset({Role.FRONT_END}), now))
        store.change(lambda tx: tx.keys.add(make_key(each)))
    with pytest.raises(error):
        store.change(lambda tx: tx.clients.rename(name, new_name))
    with pytest.raises(error):
        store.change(lambda tx: tx.keys.rename(name, new_name))
    assert [client.name for client in store.load().clients] == ["web1", "web2"]


# --- revocations ---


def test_revocations_are_kept_once_and_permanently(store: Store, now: datetime) -> None:
    wanted = [
        RevocationRecord("key", "", CA, now),
        RevocationRecord("key-id", CA, "ann's laptop", now),
        RevocationRecord("serial", CA, str(2**64 - 1), now),
    ]
    for revocation in wanted:
        assert store.change(lambda tx: tx.revocations.add(revocation))
        assert not store.change(lambda tx: tx.revocations.add(revocation))
    assert store.query(lambda tx: tx.revocations.all()) == wanted
    assert store.load().revocations == tuple(wanted)


@pytest.mark.parametrize(
    ("kind", "ca", "value"),
    [
        ("key", "", "MD5:aa"),
        ("key", "", ""),
        ("serial", CA, "0x10"),
        ("serial", CA, "01"),
        ("serial", CA, str(2**64)),
        ("serial", CA, "\u0661"),
        ("serial", "", "1"),
        ("key-id", CA, ""),
        ("key-id", CA, "x" * 257),
        ("key-id", CA, "a\0"),
    ],
)
def test_a_revocation_that_could_never_match_is_refused(
    store: Store, now: datetime, kind: str, ca: str, value: str
) -> None:
    with pytest.raises(BadRequest):
        store.change(lambda tx: tx.revocations.add(RevocationRecord(kind, ca, value, now)))


def test_a_ca_is_distrusted(store: Store, now: datetime) -> None:
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now))
    store.change(lambda tx: tx.user_cas.trust(CA, "line", ["web1"], 3_600))
    assert store.load().user_cas[0].max_lifetime_s == 3_600
    store.change(lambda tx: tx.user_cas.distrust(CA))
    assert store.load().user_cas == ()
    with pytest.raises(NotFound):
        store.change(lambda tx: tx.user_cas.distrust(CA))


# --- a client's next key ---


def of_key(credential: CredentialRecord, now: datetime) -> RevocationRecord:
    return RevocationRecord("key", "", credential.fingerprint, now)


def fingerprints(store: Store, client: str) -> set[str]:
    return {each.fingerprint for each in store.query(lambda tx: tx.clients.get(client)).credentials}


def test_a_removed_key_cannot_add_a_successor(
    store: Store, make_credential: MakeCredential, now: datetime
) -> None:
    """Another daemon may accept the old key for a moment longer; its holder must not add a further key then."""
    first, second, third = (make_credential(each) for each in "abc")
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now, first))
    store.change(lambda tx: tx.rotations.begin("web1", first.fingerprint, second))
    assert store.change(lambda tx: tx.rotations.finish("web1", second.fingerprint))
    with pytest.raises(Refused):
        store.change(lambda tx: tx.rotations.begin("web1", first.fingerprint, third))
    assert fingerprints(store, "web1") == {second.fingerprint}


def test_a_revoked_key_neither_adds_nor_becomes_a_successor(
    store: Store, make_credential: MakeCredential, now: datetime
) -> None:
    first, second, third = (make_credential(each) for each in "abc")
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now, first))
    store.change(lambda tx: tx.revocations.add(of_key(second, now)))
    with pytest.raises(BadRequest):
        store.change(lambda tx: tx.rotations.begin("web1", first.fingerprint, second))
    store.change(lambda tx: tx.revocations.add(of_key(first, now)))
    with pytest.raises(Refused):
        store.change(lambda tx: tx.rotations.begin("web1", first.fingerprint, third))


def test_a_client_that_reuses_a_name_cannot_rotate_the_previous_clients_key(
    store: Store, make_credential: MakeCredential, now: datetime
) -> None:
    first, second = make_credential("a"), make_credential("b")
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now, first))
    store.change(lambda tx: tx.clients.rename("web1", "web2"))
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now))
    with pytest.raises(Refused):
        store.change(lambda tx: tx.rotations.begin("web1", first.fingerprint, second))


def test_revoking_a_stolen_key_removes_its_successor(
    store: Store, make_credential: MakeCredential, now: datetime
) -> None:
    stolen, thiefs, other = (make_credential(each) for each in "abc")
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now, stolen))
    store.change(lambda tx: tx.clients.add_credential("web1", other))
    store.change(lambda tx: tx.rotations.begin("web1", stolen.fingerprint, thiefs))
    store.change(lambda tx: tx.revocations.add(of_key(stolen, now)))
    assert thiefs.fingerprint not in fingerprints(store, "web1")
    assert other.fingerprint in fingerprints(store, "web1")


def test_a_revoked_successor_does_not_block_another_one(
    store: Store, make_credential: MakeCredential, now: datetime
) -> None:
    first, lost, third = (make_credential(each) for each in "abc")
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now, first))
    store.change(lambda tx: tx.rotations.begin("web1", first.fingerprint, lost))
    store.change(lambda tx: tx.revocations.add(of_key(lost, now)))
    assert store.change(lambda tx: tx.rotations.begin("web1", first.fingerprint, third))
    assert store.change(lambda tx: tx.rotations.finish("web1", third.fingerprint))
    assert fingerprints(store, "web1") == {third.fingerprint}


# --- enrolment ---


def test_a_token_is_used_once(
    store: Store, make_credential: MakeCredential, token: EnrolmentRecord, now: datetime
) -> None:
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now))
    store.change(lambda tx: tx.enrolments.add(token, now))
    version = store.version()
    assert store.change(lambda tx: tx.enrolments.check("t1", SECRET, now), versioned=False)
    assert store.version() == version
    store.change(lambda tx: tx.clients.rename("web1", "web2"))
    assert store.change(lambda tx: tx.enrolments.use("t1", SECRET, make_credential("a"), now)).name == "web2"
    assert not store.change(lambda tx: tx.enrolments.check("t1", SECRET, now), versioned=False)
    with pytest.raises(NotFound):
        store.change(lambda tx: tx.enrolments.use("t1", SECRET, make_credential("b"), now))
    assert len(store.query(lambda tx: tx.clients.get("web2")).credentials) == 1


def test_tries_are_counted_right_or_wrong(store: Store, token: EnrolmentRecord, now: datetime) -> None:
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now))
    store.change(lambda tx: tx.enrolments.add(token, now))
    for _ in range(MAX_TRIES - 1):
        assert not store.change(
            lambda tx: tx.enrolments.check("t1", sha256(b"guess").digest(), now), versioned=False
        )
        assert not store.change(lambda tx: tx.enrolments.check("t2", SECRET, now), versioned=False)
    assert store.change(lambda tx: tx.enrolments.check("t1", SECRET, now), versioned=False)
    assert not store.change(lambda tx: tx.enrolments.check("t1", SECRET, now), versioned=False)


def test_a_token_ends(
    store: Store, make_credential: MakeCredential, token: EnrolmentRecord, now: datetime
) -> None:
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now))
    store.change(lambda tx: tx.enrolments.add(token, now))
    late = now + 15 * MINUTE
    assert not store.change(lambda tx: tx.enrolments.check("t1", SECRET, late), versioned=False)
    with pytest.raises(NotFound):
        store.change(lambda tx: tx.enrolments.use("t1", SECRET, make_credential("a"), late))
    assert store.change(
        lambda tx: tx.enrolments.check("t1", SECRET, late - timedelta(seconds=1)), versioned=False
    )


def test_a_new_token_takes_the_place_of_the_old_and_goes_with_its_client(
    store: Store, token: EnrolmentRecord, now: datetime
) -> None:
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now))
    store.change(lambda tx: tx.enrolments.add(token, now))
    store.change(lambda tx: tx.enrolments.add(EnrolmentRecord("t2", "web1", SECRET, token.expires_at), now))
    assert not store.change(lambda tx: tx.enrolments.check("t1", SECRET, now), versioned=False)
    store.change(lambda tx: tx.clients.remove("web1"))
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now))
    assert not store.change(lambda tx: tx.enrolments.check("t2", SECRET, now), versioned=False)


def test_a_key_of_another_client_does_not_use_up_the_token(
    store: Store, make_credential: MakeCredential, token: EnrolmentRecord, now: datetime
) -> None:
    store.change(lambda tx: tx.clients.add("ann", frozenset({Role.OPERATOR}), now, make_credential("a")))
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now))
    store.change(lambda tx: tx.enrolments.add(token, now))
    with pytest.raises(Conflict):
        store.change(lambda tx: tx.enrolments.use("t1", SECRET, make_credential("a"), now))
    assert store.change(lambda tx: tx.enrolments.use("t1", SECRET, make_credential("b"), now)).name == "web1"


def test_of_two_racing_enrolments_one_wins(
    make_store: MakeStore, make_credential: MakeCredential, token: EnrolmentRecord, now: datetime
) -> None:
    stores = [make_store() for _ in range(4)]
    stores[0].change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now))
    for round_ in range(5):
        stores[0].change(lambda tx: tx.enrolments.add(token, now))
        outcomes: list[str] = []
        line_up = threading.Barrier(len(stores))

        def enrol(number: int, round_: int = round_) -> None:
            line_up.wait()
            try:
                stores[number].change(
                    lambda tx: tx.enrolments.use(
                        "t1", SECRET, make_credential("abcdefghijklmnopqrst"[4 * round_ + number]), now
                    )
                )
                outcomes.append("done")
            except NotFound:
                outcomes.append("refused")

        threads = [threading.Thread(target=enrol, args=(number,)) for number in range(len(stores))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["done", "refused", "refused", "refused"]
    assert len(stores[0].query(lambda tx: tx.clients.get("web1")).credentials) == 5


def test_a_write_that_changes_no_row_is_no_new_version(
    store: Store, make_credential: MakeCredential, make_key: MakeKey, now: datetime
) -> None:
    """Each version makes every daemon read its contents again."""
    key = make_key("www")
    store.change(lambda tx: tx.clients.add("web1", frozenset({Role.FRONT_END}), now, make_credential("a")))
    store.change(lambda tx: tx.keys.add(key))
    store.change(lambda tx: tx.grants.add("web1", "www", [Purpose.TLS13_SERVER]))
    store.change(lambda tx: tx.user_cas.trust(CA, "line", ["web1"]))
    store.change(lambda tx: tx.revocations.add(RevocationRecord("serial", CA, "7", now)))
    store.change(lambda tx: tx.certificates.set("www", "chain", now))
    version = store.version()
    current = make_credential("a").fingerprint
    idle: dict[str, Callable[[Transaction], object]] = {
        "grant": lambda tx: tx.grants.add("web1", "www", [Purpose.TLS13_SERVER]),
        "no such grant": lambda tx: tx.grants.remove("web1", "www", [Purpose.TLS12_SERVER]),
        "role": lambda tx: tx.clients.add_role("web1", Role.FRONT_END),
        "no such role": lambda tx: tx.clients.remove_role("web1", Role.AUDITOR),
        "CA": lambda tx: tx.user_cas.trust(CA, "line", ["web1"]),
        "revocation": lambda tx: tx.revocations.add(RevocationRecord("serial", CA, "7", now)),
        "chain": lambda tx: replace_certificate(tx, key, "chain", now, now),
        "rotation": lambda tx: tx.rotations.finish("web1", current),
        "nothing": lambda tx: None,
    }
    for name, action in idle.items():
        store.change(action)
        assert store.version() == version, name
    store.change(lambda tx: tx.clients.add_role("web1", Role.AUDITOR))
    assert store.version() == version + 1
