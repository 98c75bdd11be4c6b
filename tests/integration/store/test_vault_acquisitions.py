"""Acquisitions in the store, on both databases: decided and counted at once, never given back, kept until they are recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest

from hsmd.daemon.store import EventRecord, Given, NotGiven, Readers, Store
from hsmd.envelopes.vault.life_cycle import Reason, State
from hsmd.envelopes.vault.records import Mode, RecordStanding
from hsmd.errors import BadRequest, Conflict, NotFound
from hsmd.protocol.roles import Role
from tests.support.vault_store import ORIGIN, Owner

SECOND = timedelta(seconds=1)


@pytest.fixture
def ann(store: Store) -> Owner:
    owner = Owner(store).enrol()
    owner.begin()
    return owner


def given(owner: Owner, record: str = "web", version: int = 0, *, now: datetime) -> tuple[int, int] | Reason:
    """The numbers of request and release; why it was not given out."""
    found = owner.get(record, version, now=now)
    if isinstance(found, NotGiven):
        assert found.acquisition.released == 0
        assert found.acquisition.refusal == found.standing.reason.value
        return found.standing.reason
    assert (found.version.requests, found.version.released) == (
        found.acquisition.request,
        found.acquisition.released,
    )
    return found.acquisition.request, found.acquisition.released


def events(store: Store) -> list[EventRecord]:
    page = store.query(lambda tx: tx.events.page(Readers(frozenset({Role.AUDITOR})), None))
    return [each for each in page.events if each.kind not in ("vault.registered", "vault.confirmed")]


def kinds(store: Store) -> list[str]:
    return [each.kind for each in events(store)]


def test_an_envelope_is_given_out_with_its_statement(ann: Owner, now: datetime) -> None:
    deposited = ann.put("web", max_uses=3)
    version = ann.store.version()
    found = ann.get("web", now=now, ticket="one")
    assert isinstance(found, Given)
    assert found.envelope == ann.envelope("web", 1)
    assert (found.head.text, found.head.signature) == (ann.heads["web", 1].encode(), b"signature")
    assert found.head.signer == ann.management.digest
    counted = found.acquisition
    assert (counted.owner, counted.record, counted.version, counted.ticket) == ("ann", "web", 1, "one")
    assert (counted.request, counted.released, counted.refusal, counted.origin) == (1, 1, "", ORIGIN)
    assert found.version.judge(now).uses_left == 2
    assert (deposited.requests, deposited.released) == (0, 0)
    assert ann.look().released == 1
    assert ann.store.version() == version


def test_unknown_records_count_nothing(ann: Owner, now: datetime) -> None:
    ann.put("web")
    for record, version in (("mail", 0), ("web", 2), ("we\0b", 0), ("\ud800", 1)):
        with pytest.raises(NotFound, match="'ann' has no "):
            ann.get(record, version, now=now)
    with pytest.raises(NotFound):
        Owner(ann.store, "bob").get("web", now=now)
    assert (ann.look().requests, ann.change(lambda tx: tx.vault_acquisitions.all_of(ORIGIN))) == (0, [])


def test_denied_beyond_the_maximum(ann: Owner, now: datetime) -> None:
    ann.put("web", max_uses=2, mode="deny")
    assert [given(ann, now=now) for _ in range(4)] == [(1, 1), (2, 2), Reason.LIMIT, Reason.LIMIT]
    assert (ann.look().requests, ann.look().released) == (4, 2)
    exhausted, over = events(ann.store)
    counts = {"version": 1, "key": ann.look().key.hex(), "max_uses": 2, "released": 2, "mode": "deny"}
    assert (exhausted.kind, exhausted.subject) == ("vault.exhausted", "ann/web")
    assert exhausted.payload == {**counts, "requests": 2}
    assert (over.kind, over.payload) == ("vault.over-use", {**counts, "requests": 3, "given": False})


def test_told_beyond_the_maximum(ann: Owner, now: datetime) -> None:
    ann.put("web", max_uses=1, mode="notify")
    assert [given(ann, now=now) for _ in range(3)] == [(1, 1), (2, 2), (3, 3)]
    assert [(each.kind, each.payload["released"]) for each in events(ann.store)] == [
        ("vault.exhausted", 1),
        ("vault.over-use", 2),
    ]
    ann.limit(max_uses=4)
    assert [given(ann, now=now) for _ in range(2)] == [(4, 4), (5, 5)]
    assert [each.payload["max_uses"] for each in events(ann.store)] == [1, 1, 4, 4]


def test_a_maximum_below_what_was_given_out(ann: Owner, now: datetime) -> None:
    ann.put("web")
    assert [given(ann, now=now) for _ in range(3)] == [(1, 1), (2, 2), (3, 3)]
    ann.limit(max_uses=2, mode="deny")
    assert given(ann, now=now) is Reason.LIMIT
    ann.limit(max_uses=2, mode=Mode.NOTIFY)
    assert given(ann, now=now) == (5, 4)
    assert kinds(ann.store) == ["vault.over-use"]


@pytest.mark.parametrize("mode", ["notify", "deny"])
def test_the_term_holds_in_each_mode(ann: Owner, now: datetime, mode: str) -> None:
    begin, end = (
        now.replace(microsecond=0) + timedelta(hours=1),
        now.replace(microsecond=0) + timedelta(hours=3),
    )
    ann.put("web", not_before=begin, not_after=end, mode=mode)
    assert given(ann, now=begin - SECOND) is Reason.NOT_YET
    assert given(ann, now=begin) == (2, 1)
    assert given(ann, now=end - SECOND) == (3, 2)
    assert given(ann, now=end) is Reason.EXPIRED
    assert given(ann, now=begin) is Reason.EXPIRED, (
        "an end that was seen stays, whatever the clock says later"
    )
    assert (ann.look().requests, ann.look().released) == (5, 2)
    assert kinds(ann.store) == ["vault.expired"]


def test_a_later_term_begins_again(ann: Owner, now: datetime) -> None:
    end = now.replace(microsecond=0) + timedelta(hours=1)
    ann.put("web", not_after=end)
    assert given(ann, now=end) is Reason.EXPIRED
    ann.limit(not_after=end - SECOND)
    assert given(ann, now=now) is Reason.EXPIRED, "the new term ends before the end was seen"
    ann.limit(not_after=end + timedelta(hours=1))
    assert given(ann, now=end) == (3, 1)
    assert given(ann, now=end + timedelta(hours=1)) is Reason.EXPIRED
    ann.limit(not_after=None)
    assert given(ann, now=end + timedelta(days=999)) == (5, 2)


def test_a_later_term_behind_a_clock_that_ran_ahead_is_refused(ann: Owner, now: datetime) -> None:
    """It would be accepted and begin nothing again: an end that was seen stays until a statement with a later one."""
    end = now.replace(microsecond=0) + timedelta(hours=1)
    ahead = end + timedelta(days=400)
    ann.put("web", not_after=end)
    assert given(ann, now=ahead) is Reason.EXPIRED
    for late in (end + SECOND, ahead):
        with pytest.raises(BadRequest, match=r"text: not_after: .* ended at \d{4}-\d\d-\d\dT.*Z by .* clock"):
            ann.limit(not_after=late)
    assert (ann.look().number, ann.look().not_after, ann.look().ended_at) == (1, end, ahead)
    ann.limit(max_uses=9)
    ann.limit(not_after=ahead + SECOND)
    assert given(ann, now=ahead) == (2, 1)


def test_earlier_versions_are_given_out_within_their_limits(ann: Owner, now: datetime) -> None:
    ann.put("web", 1, max_uses=1, mode="deny")
    ann.put("web", 2)
    assert given(ann, version=0, now=now) == (1, 1)
    assert given(ann, version=1, now=now) == (1, 1)
    assert given(ann, version=1, now=now) is Reason.LIMIT
    assert ann.look("web", 1).judge(now).state is State.DEACTIVATED


def test_what_is_not_live_is_not_given_out(ann: Owner, now: datetime) -> None:
    for record in ("suspended", "revoked", "compromised", "destroyed"):
        ann.put(record)
    ann.change(lambda tx: tx.vault_records.suspend("ann", "suspended", 1, "laptop stolen", now))
    ann.revoke("revoked", reason="left")
    ann.compromise("compromised")
    ann.destroy("destroyed")
    assert given(ann, "suspended", now=now) is Reason.SUSPENDED
    for record in ("revoked", "compromised", "destroyed"):
        assert given(ann, record, now=now) is Reason.OWNER
        assert (ann.look(record).requests, ann.look(record).released) == (1, 0)
    ann.change(lambda tx: tx.vault_records.resume("ann", "suspended", 1, now))
    assert given(ann, "suspended", now=now) == (2, 1)


def test_deposits_under_a_lost_management_key_are_not_given_out(ann: Owner, now: datetime) -> None:
    ann.put("web")
    ann.begin(number=2)
    assert given(ann, now=now) is Reason.LOST_MANAGEMENT_KEY
    ann.rewrap()
    assert given(ann, now=now) == (2, 1)


def test_acquisitions_are_kept_until_they_are_recorded(ann: Owner, now: datetime) -> None:
    ann.put("web", max_uses=1, mode="deny")
    first, second = (ann.get(now=now, ticket=ticket) for ticket in ("one", "two"))
    ann.get(now=now, ticket="three", origin="b.example/log")
    kept = ann.change(lambda tx: tx.vault_acquisitions.all_of(ORIGIN))
    assert kept == [first.acquisition, second.acquisition]
    assert [(each.ticket, each.request, each.released, each.refusal) for each in kept] == [
        ("one", 1, 1, ""),
        ("two", 2, 0, "limit"),
    ]
    ann.change(lambda tx: tx.vault_acquisitions.remove([first.acquisition.id, (99, 1)]))
    assert ann.change(lambda tx: tx.vault_acquisitions.all_of(ORIGIN)) == [second.acquisition]
    assert len(ann.change(lambda tx: tx.vault_acquisitions.all_of("b.example/log"))) == 1


def test_a_count_that_is_rolled_back_was_never_made(ann: Owner, now: datetime) -> None:
    ann.put("web", max_uses=1, mode="deny")
    with pytest.raises(RuntimeError), ann.store.write(versioned=False) as tx:
        tx.vault_acquisitions.count("ann", "web", 0, "one", ORIGIN, now)
        raise RuntimeError
    assert (ann.look().requests, ann.change(lambda tx: tx.vault_acquisitions.all_of(ORIGIN))) == (0, [])
    assert kinds(ann.store) == []
    assert given(ann, now=now) == (1, 1)


def test_many_daemons_give_out_as_often_as_is_allowed(
    make_store: Callable[[], Store], ann: Owner, now: datetime
) -> None:
    ann.put("web", max_uses=10, mode="deny")
    owners = [Owner(make_store()) for _ in range(4)]
    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(given, owners[n % 4], now=now) for n in range(64)]
        found = [each.result(60) for each in asked]
    released = sorted(each[1] for each in found if isinstance(each, tuple))
    assert released == list(range(1, 11))
    assert Counter(each for each in found if isinstance(each, Reason)) == {Reason.LIMIT: 54}
    assert (ann.look().requests, ann.look().released) == (64, 10)
    kept = ann.change(lambda tx: tx.vault_acquisitions.all_of(ORIGIN))
    assert sorted(each.request for each in kept) == list(range(1, 65))
    assert sorted(each.released for each in kept if each.released) == list(range(1, 11))
    assert kinds(ann.store) == ["vault.exhausted", "vault.over-use"]


@pytest.mark.parametrize("change", ["limit", "suspend", "destroy"])
def test_a_change_that_was_committed_first_counts(
    make_store: Callable[[], Store], ann: Owner, now: datetime, change: str
) -> None:
    """The request comes while the change is open, and is decided by what was committed."""
    ann.put("web")
    statements = {
        "limit": ann.next(max_uses=1, mode="deny"),
        "destroy": ann.next(standing=RecordStanding.DESTROYED, envelope=""),
    }
    given(ann, now=now)
    with ThreadPoolExecutor(1) as pool:
        with ann.store.write(versioned=False) as tx:
            if change == "suspend":
                tx.vault_records.suspend("ann", "web", 1, "", now)
            else:
                getattr(tx.vault_records, change)("ann", ann.sign(statements[change]), now)
            asked = pool.submit(given, Owner(make_store()), now=now)
            with pytest.raises(TimeoutError):
                asked.result(0.2)
        reasons = {"limit": Reason.LIMIT, "suspend": Reason.SUSPENDED, "destroy": Reason.OWNER}
        assert asked.result(30) is reasons[change]


def test_two_changes_that_follow_on_the_same_statement(
    make_store: Callable[[], Store], ann: Owner, now: datetime
) -> None:
    ann.put("web")
    first, second = (ann.sign(ann.next(max_uses=uses)) for uses in (1, 2))
    other = make_store()
    with ThreadPoolExecutor(1) as pool:
        with ann.store.write(versioned=False) as tx:
            tx.vault_records.limit("ann", first, now)
            late = pool.submit(
                other.change, lambda tx: tx.vault_records.limit("ann", second, now), versioned=False
            )
            with pytest.raises(TimeoutError):
                late.result(0.2)
        with pytest.raises(Conflict, match="the newest statement about web version 1 has the number 2"):
            late.result(30)
    assert ann.look().max_uses == 1
