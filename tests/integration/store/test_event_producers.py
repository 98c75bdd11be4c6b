"""What the front appends to the ledger by itself: certificates that end, tokens that come and go; and what it removes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.ledger import endings
from hsmd.daemon.front.ledger.conditions import AT_ONCE, MAX_WAITING, REFILL_S, Condition, Conditions
from hsmd.daemon.front.ledger.endings import AHEAD, CHECK_S, Endings, Leaf
from hsmd.daemon.front.ledger.housekeeping import TURN, Housekeeping
from hsmd.daemon.front.ledger.producers import client_enrolled, replace_certificate, stop_logins
from hsmd.daemon.store import EventRecord, LoginStop, Readers, Store
from hsmd.daemon.store.records import KeyOwner, Limits
from hsmd.errors import StoreFailure
from hsmd.protocol.roles import Role
from hsmd.purposes import Purpose
from tests.support.store import NOW, key_record

DAY = timedelta(days=1)
OPERATOR = Readers(frozenset({Role.OPERATOR}))


class Clock:
    """A clock that the test moves."""

    def __init__(self, at: datetime = NOW) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at


def chain(term: timedelta, begins: datetime = NOW) -> str:
    """A self-signed certificate that is valid for `term`."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "shop")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(private.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(begins).not_valid_after(begins + term)
    return builder.sign(private, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def put(store: Store, key: str, pem: str, now: datetime = NOW) -> None:
    """Store a certificate for a key, which is added first."""
    with store.write() as tx:
        if key not in {each.name for each in tx.keys.all()}:
            tx.keys.add(key_record(key))
        replace_certificate(tx, key_record(key), pem, Leaf.of(pem).not_after, now)


def events(store: Store, kind: str = "", readers: Readers = OPERATOR) -> list[EventRecord]:
    page = store.query(lambda tx: tx.events.page(readers, None))
    return [event for event in page.events if not kind or event.kind == kind]


def thresholds(store: Store) -> list[str]:
    return [event.payload["threshold"] for event in events(store, "certificate.ending")]


async def checked(store: Store, clock: Clock) -> float:
    """One check by a daemon that has just started."""
    return await Endings(SnapshotCache(store), lambda: None, now=clock).check()


# --- certificates that end ---


@pytest.mark.parametrize(
    ("term", "left", "names"),
    [
        (90 * DAY, [30 * DAY, 7 * DAY, DAY, 0 * DAY], ["30-days", "7-days", "1-day", "end"]),
        (60 * DAY, [30 * DAY, 7 * DAY, DAY, 0 * DAY], ["30-days", "7-days", "1-day", "end"]),
        (59 * DAY, [59 * DAY / 3, 5.9 * DAY, 0 * DAY], ["third", "tenth", "end"]),
        (
            timedelta(seconds=30),
            [timedelta(seconds=10), timedelta(seconds=3), 0 * DAY],
            ["third", "tenth", "end"],
        ),
    ],
)
async def test_each_threshold_is_reported_once_when_it_is_passed(
    store: Store, term: timedelta, left: list[timedelta], names: list[str]
) -> None:
    put(store, "shop", chain(term))
    end = Leaf.of(store.load().certificates[0].chain_pem).not_after
    clock = Clock()
    endings = Endings(SnapshotCache(store), lambda: None, now=clock)
    for number, before in enumerate(left):
        clock.at = end - before - timedelta(milliseconds=1)
        await endings.check()
        assert thresholds(store) == names[:number]
        for _ in range(2):
            clock.at = end - before
            await endings.check()
            assert thresholds(store) == names[: number + 1]
    assert [event.payload["left_s"] for event in events(store, "certificate.ending")] == [
        int(each.total_seconds()) for each in left
    ]


async def test_two_daemons_and_restarts_report_a_threshold_once(make_store: Callable[[], Store]) -> None:
    one, other = make_store(), make_store()
    put(one, "shop", chain(90 * DAY))
    clock = Clock(NOW + 61 * DAY)
    for store in (one, other, one):
        await checked(store, clock)
    assert thresholds(one) == ["30-days"]


async def test_daemons_that_were_off_report_the_newest_threshold_only(store: Store) -> None:
    put(store, "shop", chain(90 * DAY))
    await checked(store, Clock(NOW + 84 * DAY))
    assert thresholds(store) == ["7-days"]
    await checked(store, Clock(NOW + 1000 * DAY))
    assert thresholds(store) == ["7-days", "end"]
    assert events(store, "certificate.ending")[-1].payload["left_s"] == 0


async def test_a_renewed_certificate_begins_anew(store: Store) -> None:
    put(store, "shop", chain(90 * DAY))
    clock = Clock(NOW + 61 * DAY)
    cache = SnapshotCache(store)
    endings = Endings(cache, lambda: None, now=clock)
    await endings.check()
    put(store, "shop", chain(90 * DAY, NOW + 61 * DAY), clock.at)
    await cache.refresh()
    await endings.check()
    assert thresholds(store) == ["30-days"]
    clock.at = NOW + (61 + 84) * DAY
    await endings.check()
    assert thresholds(store) == ["30-days", "7-days"]
    replaced = events(store, "certificate.replaced")
    assert [bool(event.payload["previous"]) for event in replaced] == [False, True]


async def test_a_certificate_with_the_same_end_is_noticed(store: Store) -> None:
    """Positive control for the mark by which another chain is recognised: the ends are equal."""
    put(store, "shop", chain(90 * DAY))
    clock = Clock(NOW + 61 * DAY)
    cache = SnapshotCache(store)
    endings = Endings(cache, lambda: None, now=clock)
    await endings.check()
    put(store, "shop", chain(90 * DAY))
    await cache.refresh()
    await endings.check()
    assert thresholds(store) == ["30-days", "30-days"]


async def test_a_certificate_that_was_replaced_is_not_looked_at_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "shop", chain(90 * DAY))
    clock, cache = Clock(), SnapshotCache(store)
    looked: list[str] = []
    read = endings._leaves
    monkeypatch.setattr(endings, "_leaves", lambda tx, names: looked.extend(names) or read(tx, names))
    watching = Endings(cache, lambda: None, now=clock)
    for _ in range(3):
        put(store, "shop", chain(900 * DAY))
        await cache.refresh()
    clock.at = NOW + 61 * DAY
    await watching.check()
    assert looked == []
    clock.at = NOW + 871 * DAY
    await watching.check()
    assert looked == ["shop"]


async def test_certificates_that_were_replaced_do_not_pile_up(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings, "MOST_REPLACED", 3)
    put(store, "shop", chain(90 * DAY))
    cache = SnapshotCache(store)
    watching = Endings(cache, lambda: None, now=Clock())
    for _ in range(20):
        put(store, "shop", chain(90 * DAY))
        await cache.refresh()
    assert len(watching._coming) <= 6


async def test_the_next_check_is_at_the_next_threshold(store: Store) -> None:
    put(store, "shop", chain(90 * DAY))
    assert await checked(store, Clock()) == CHECK_S
    end = Leaf.of(store.load().certificates[0].chain_pem).not_after
    assert await checked(store, Clock(end - AHEAD - timedelta(seconds=7))) == 7.0
    assert await checked(store, Clock(end - 7 * DAY - timedelta(seconds=7))) == 7.0


async def test_many_certificates_end_at_once(store: Store) -> None:
    pem = chain(90 * DAY)
    with store.write() as tx:
        for number in range(230):
            tx.keys.add(key_record(f"k{number}"))
    for number in range(230):
        with store.write() as tx:
            tx.certificates.set(f"k{number}", chain(90 * DAY) if number < 3 else pem, Leaf.of(pem).not_after)
    await checked(store, Clock(NOW + 61 * DAY))
    assert len(thresholds(store)) == 4  # one for each certificate


async def test_a_key_that_was_removed_meanwhile_is_passed_over(store: Store) -> None:
    put(store, "shop", chain(90 * DAY))
    put(store, "mail", chain(90 * DAY))
    cache = SnapshotCache(store)
    with store.write() as tx:
        tx.keys.remove("shop")
    await Endings(cache, lambda: None, now=Clock(NOW + 61 * DAY)).check()
    assert [event.subject for event in events(store, "certificate.ending")] == ["mail"]


# --- in the transaction of what they tell ---


async def test_a_certificate_that_cannot_be_read_is_passed_over(store: Store) -> None:
    """It was stored by a release whose library could; an error here would end the front, again and again."""
    put(store, "shop", chain(90 * DAY))
    put(store, "old", chain(90 * DAY))
    with store.write() as tx:
        tx.certificates.set(
            "old", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", NOW + 90 * DAY
        )
    await checked(store, Clock(NOW + 89 * DAY))
    assert thresholds(store) == ["1-day"]


def test_an_event_exists_exactly_if_its_certificate_does(store: Store) -> None:
    pem = chain(90 * DAY)
    put(store, "shop", pem)
    put(store, "shop", pem)  # the same one again tells nothing new
    with pytest.raises(StoreFailure), store.write() as tx:
        replace_certificate(tx, key_record("shop"), chain(90 * DAY), NOW, NOW)
        raise StoreFailure
    assert len(events(store, "certificate.replaced")) == 1


def test_only_those_whom_it_concerns_read_about_a_certificate(store: Store) -> None:
    rows = {}
    with store.write() as tx:
        tx.keys.add(key_record("shop"))
        for name in ("web", "mail"):
            tx.clients.add(name, frozenset({Role.FRONT_END}), NOW)
            rows[name] = tx.clients.find_id(name)
        tx.grants.add("web", "shop", {Purpose.TLS13_SERVER})
    put(store, "shop", chain(90 * DAY))
    assert len(events(store, readers=Readers(frozenset(), frozenset({rows["web"]})))) == 1
    assert events(store, readers=Readers(frozenset({Role.FRONT_END}), frozenset({rows["mail"]}))) == []
    assert len(events(store, readers=Readers(frozenset({Role.AUDITOR})))) == 1


def test_owners_readers_and_limited_grants_count_too(store: Store) -> None:
    with store.write() as tx:
        for name, role in (("owner", Role.OWNER), ("reader", Role.OWNER), ("limited", Role.FRONT_END)):
            tx.clients.add(name, frozenset({role}), NOW)
        tx.keys.add(replace(key_record("shop"), owner=KeyOwner("owner")))
        tx.keys.add(key_record("other"))
        tx.readers.add("shop", "reader")
        tx.limited_grants.add("limited", "shop", {Purpose.TLS13_SERVER}, Limits(max_uses=1), NOW)
        rows = {name: tx.clients.find_id(name) for name in ("owner", "reader", "limited")}
        assert tx.audience_of_key("shop").clients == set(rows.values())
        assert tx.audience_of_key("other").clients == frozenset()


def test_a_stop_of_logins_is_reported_once(store: Store) -> None:
    first = LoginStop("main", NOW, "a on host", "refused")
    for stop in (first, LoginStop("main", NOW + DAY, "b on host", "later")):
        with store.write() as tx:
            stop_logins(tx, stop, 0)
    assert [event.payload for event in events(store, "logins.stopped")] == [
        {"daemon": "a on host", "reason": "refused"}
    ]
    with store.write() as tx:
        tx.logins.clear("main")
    with store.write() as tx:
        stop_logins(tx, LoginStop("main", NOW + DAY, "b on host", "again"), 1)
    assert len(events(store, "logins.stopped")) == 2


def test_an_enrolment_is_read_by_the_client_itself(store: Store) -> None:
    with store.write() as tx:
        tx.clients.add("web", frozenset({Role.FRONT_END}), NOW)
        record = tx.clients.get("web")
        client_enrolled(tx, record, "SHA256:abc", NOW)
    (event,) = events(store, readers=Readers(frozenset(), frozenset({record.row})))
    assert event.payload == {"roles": ["front-end"], "fingerprint": "SHA256:abc"}
    with store.write() as tx:
        tx.clients.remove("web")
        tx.clients.add("web", frozenset({Role.FRONT_END}), NOW)
        namesake = tx.clients.get("web")
    assert events(store, readers=Readers(frozenset(), frozenset({namesake.row}))) == []


# --- what a daemon notices ---


class Watched:
    """A token whose state the test sets, and the conditions that report it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.away, self.now, self.reason = False, 0.0, ""
        self.conditions = Conditions(
            store, self.observed, lambda: None, now=lambda: NOW, clock=lambda: self.now
        )

    def observed(self) -> list[Condition]:
        return [Condition("token.away", "token.back", "main", self.away, {"reason": self.reason})]

    async def becomes(self, away: bool) -> None:
        self.away = away
        await self.conditions.check()

    def kinds(self) -> list[str]:
        return [event.kind for event in events(self.store)]


async def test_a_token_that_goes_and_comes_back_is_reported(store: Store) -> None:
    watched = Watched(store)
    for away in (False, True, True, False, False):
        await watched.becomes(away)
    assert watched.kinds() == ["token.away", "token.back"]


async def test_conditions_of_one_daemon_are_told_apart(store: Store) -> None:
    disk = {"full": True}
    conditions = Conditions(
        store,
        lambda: [
            Condition("health.finding", "health.cleared", "hsm-1", holds, {"condition": about}, about)
            for about, holds in (("disk-full", disk["full"]), ("store-away", not disk["full"]))
        ],
        lambda: None,
    )
    for disk["full"] in (True, True, False):
        await conditions.check()
    told = [(event.kind, event.payload["condition"]) for event in events(store)]
    assert told == [
        ("health.finding", "disk-full"),
        ("health.cleared", "disk-full"),
        ("health.finding", "store-away"),
    ]


async def test_a_token_that_comes_and_goes_is_reported_at_a_limited_rate_and_as_it_is_then(
    store: Store,
) -> None:
    watched = Watched(store)
    for number in range(50):
        await watched.becomes(number % 2 == 0)
    assert len(watched.kinds()) == AT_ONCE
    assert watched.kinds()[-1] == "token.back"
    await watched.becomes(True)
    assert len(watched.kinds()) == AT_ONCE
    watched.now += REFILL_S
    await watched.conditions.check()
    assert watched.kinds()[AT_ONCE:] == ["token.away"]


async def test_what_is_noticed_while_the_store_is_away_is_appended_later(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(store)
    change = store.change

    def away(*_: object, **__: object) -> None:
        raise StoreFailure

    monkeypatch.setattr(store, "change", away)
    for state in (True, False):
        with pytest.raises(StoreFailure):
            await watched.becomes(state)
    for number in range(2 * MAX_WAITING):
        watched.now += 2 * REFILL_S
        with pytest.raises(StoreFailure):
            await watched.becomes(number % 2 == 0)
    monkeypatch.setattr(store, "change", change)
    await watched.conditions.check()
    assert len(watched.kinds()) == MAX_WAITING
    assert watched.kinds()[-2:] == ["token.away", "token.back"]


async def test_what_cannot_be_appended_keeps_nothing_back(store: Store) -> None:
    """An error that ends the task would end the front, and the next one too while the condition holds."""
    watched = Watched(store)
    watched.reason = "x" * 5_000
    await watched.becomes(True)
    watched.reason = ""
    await watched.becomes(False)
    assert watched.kinds() == ["token.back"]


def test_a_long_reason_does_not_prevent_that_logins_are_stopped(store: Store) -> None:
    stop = LoginStop(token="main", at=NOW, by="fra-1", reason="\x01" * 5_000)
    assert store.change(lambda tx: stop_logins(tx, stop, 0))
    (event,) = events(store, "logins.stopped")
    assert event.payload["reason"] == "\x01" * 500


# --- what is removed ---


async def test_one_daemon_prunes_at_a_time(make_store: Callable[[], Store]) -> None:
    one, other = make_store(), make_store()
    old = NOW - 91 * DAY
    with one.write(versioned=False) as tx:
        for number in range(5):
            tx.events.append("test.event", str(number), readers=OPERATOR, payload={}, now=old)
        tx.events.append("test.event", "young", readers=OPERATOR, payload={}, now=NOW)
    clock = Clock()
    first, second = Housekeeping(one, "one", now=clock), Housekeeping(other, "other", now=clock)
    assert await first.prune() > 0
    assert [event.subject for event in events(one)] == ["young"]
    before = one.version()
    assert (await second.prune(), await first.prune()) == (0, 0)
    clock.at += 91 * DAY + TURN
    assert await second.prune() > 0
    assert events(one) == []
    assert one.version() == before
