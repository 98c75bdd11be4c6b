"""Announcements of the ends of terms, on both databases: each threshold once, whatever happens to clocks and daemons."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest

from hsmd.daemon.store import NotGiven, Readers, Store
from hsmd.daemon.store.vault_terms import Term
from hsmd.envelopes.vault.fields import format_time
from hsmd.envelopes.vault.life_cycle import Reason
from hsmd.protocol.roles import Role
from tests.support.store import NOW
from tests.support.vault_store import Owner

SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
NOON = NOW.replace(microsecond=0)


@pytest.fixture
def ann(store: Store) -> Owner:
    owner = Owner(store).enrol()
    owner.begin()
    return owner


def announce(owner: Owner, at: datetime, limit: int = 50) -> int:
    found: int = owner.change(lambda tx: tx.vault_announcements.announce(at, limit))
    return found


def next_due(owner: Owner) -> datetime | None:
    return owner.store.query(lambda tx: tx.vault_announcements.next_due())


def told(store: Store) -> list[tuple[str, str]]:
    """Kind and threshold of each event about a term."""
    page = store.query(lambda tx: tx.events.page(Readers(frozenset({Role.AUDITOR})), None))
    return [
        (each.kind.removeprefix("vault."), each.payload["threshold"])
        for each in page.events
        if "threshold" in each.payload
    ]


def test_each_threshold_is_told_once(ann: Owner) -> None:
    end = NOON + 90 * DAY
    ann.put("web", not_after=end)
    assert next_due(ann) == end - 30 * DAY
    assert announce(ann, end - 30 * DAY - SECOND) == 0
    for left in (30 * DAY, 7 * DAY, DAY, 0 * DAY):
        assert next_due(ann) == end - left
        assert [announce(ann, end - left) for _ in range(2)] == [1, 0]
    assert next_due(ann) is None
    assert told(ann.store) == [
        ("expiring", "30-days"),
        ("expiring", "7-days"),
        ("expiring", "1-day"),
        ("expired", "end"),
    ]
    assert ann.look().ended_at == end


def test_what_an_event_tells(ann: Owner) -> None:
    end = NOON + 90 * DAY
    found = ann.put("web", not_after=end)
    at = end - 6 * DAY
    announce(ann, at)
    (event,) = ann.store.query(
        lambda tx: tx.events.page(Readers(clients=frozenset({found.owner_row})), None)
    ).events[2:]
    assert (event.kind, event.subject, event.at) == ("vault.expiring", "ann/web", at)
    assert event.payload == {
        "version": 1, "key": found.key.hex(), "not_after": format_time(end), "threshold": "7-days", "left_s": 6 * 86_400, "skipped": ["30-days"],
    }  # fmt: skip


def test_a_short_term_has_parts(ann: Owner) -> None:
    ann.put("web", not_before=NOON + HOUR, not_after=NOON + 11 * HOUR)
    assert next_due(ann) == NOON + 11 * HOUR - timedelta(hours=10) / 3
    assert announce(ann, NOON + 10 * HOUR) == 1
    assert announce(ann, NOON + 99 * HOUR) == 1
    assert told(ann.store) == [("expiring", "tenth"), ("expired", "end")]


def test_a_daemon_that_was_away_tells_the_newest(ann: Owner) -> None:
    end = NOON + 90 * DAY
    ann.put("web", not_after=end)
    assert announce(ann, end + DAY) == 1
    assert told(ann.store) == [("expired", "end")]
    assert ann.look().ended_at == end + DAY


@pytest.mark.parametrize("back", [HOUR, 100 * DAY, 4000 * DAY])
def test_a_clock_that_goes_back_repeats_nothing_and_revives_nothing(ann: Owner, back: timedelta) -> None:
    end = NOON + 90 * DAY
    ann.put("web", not_after=end)
    for at in (end - 7 * DAY, end - 7 * DAY - back, end, end - back, end):
        announce(ann, at)
    assert told(ann.store) == [("expiring", "7-days"), ("expired", "end")]
    refused = ann.get(now=end - back)
    assert isinstance(refused, NotGiven)
    assert refused.standing.reason is Reason.EXPIRED
    assert told(ann.store) == [("expiring", "7-days"), ("expired", "end")]


def test_a_refused_acquisition_tells_the_end_first(ann: Owner) -> None:
    end = NOON + 90 * DAY
    ann.put("web", not_after=end)
    assert isinstance(ann.get(now=end), NotGiven)
    assert announce(ann, end) == 0
    assert told(ann.store) == [("expired", "end")]
    assert ann.look().ended_at == end


def test_another_end_is_told_anew(ann: Owner) -> None:
    end = NOON + 90 * DAY
    ann.put("web", not_after=end)
    announce(ann, end - 7 * DAY)
    ann.limit(max_uses=9, now=end - 6 * DAY)
    assert next_due(ann) == end - DAY, "the end is the same"
    ann.limit(not_after=end + 90 * DAY, now=end - 6 * DAY)
    assert next_due(ann) == end + 60 * DAY
    ann.limit(not_after=None, now=end - 6 * DAY)
    assert next_due(ann) is None
    announce(ann, end + 999 * DAY)
    ann.limit(not_after=end, now=end + DAY)
    assert announce(ann, end + DAY) == 1
    assert told(ann.store) == [("expiring", "7-days"), ("expired", "end")]


@pytest.mark.parametrize("ending", ["revoke", "compromise", "destroy"])
def test_what_has_ended_otherwise_is_not_told(ann: Owner, ending: str) -> None:
    ann.put("web", not_after=NOON + DAY)
    getattr(ann, ending)("web")
    assert next_due(ann) is None
    assert announce(ann, NOON + 2 * DAY) == 0


def test_many_ends_at_once_are_told_in_parts(ann: Owner) -> None:
    for number in range(7):
        ann.put(f"r{number}", not_after=NOON + DAY + number * SECOND)
    assert [announce(ann, NOON + DAY + 5 * SECOND, limit=3) for _ in range(4)] == [3, 3, 1, 0]
    assert told(ann.store) == [("expired", "end")] * 6 + [("expiring", "tenth")]


def test_two_daemons_tell_each_end_once(make_store: Callable[[], Store], ann: Owner) -> None:
    for number in range(10):
        ann.put(f"r{number}", not_after=NOON + DAY)
    stores = [make_store() for _ in range(4)]
    at = NOON + 2 * DAY

    def run(store: Store) -> int:
        return store.change(lambda tx: tx.vault_announcements.announce(at), versioned=False)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, stores))
    assert told(ann.store) == [("expired", "end")] * 10


def test_a_restore_keeps_an_end_that_was_seen(ann: Owner, restored: Callable[[bytes], Store]) -> None:
    ann.put("web", not_after=NOON + DAY)
    ann.put("mail", not_after=NOON + 3 * DAY, now=NOON)
    announce(ann, NOON + DAY)
    ann.store = restored(ann.store.export())
    assert announce(ann, NOON + 2 * DAY - HOUR) == 0
    refused = ann.get("web", now=NOON)
    assert isinstance(refused, NotGiven)
    assert refused.standing.reason is Reason.EXPIRED
    assert told(ann.store) == [("expired", "end")]
    assert next_due(ann) == NOON + 2 * DAY


def test_the_owner_and_its_checkers_are_told(ann: Owner, store: Store, now: datetime) -> None:
    for name, role in (("shop", Role.FRONT_END), ("eve", Role.CHECKER), ("bob", Role.OWNER)):
        store.change(lambda tx, name=name, role=role: tx.clients.add(name, frozenset({role}), now))
    rows = {
        name: store.query(lambda tx, name=name: tx.clients.find_id(name))
        for name in ("ann", "shop", "eve", "bob")
    }
    ann.change(lambda tx: tx.vault_checkers.allow("ann", "shop", now))
    ann.put("web", not_after=NOON + DAY)
    ann.put("mail", not_after=NOON + 2 * DAY)

    def read(*roles: Role, client: str = "") -> list[str]:
        readers = Readers(frozenset(roles), frozenset({rows[client]} if client else ()))
        page = store.query(lambda tx: tx.events.page(readers, None))
        return [each.subject for each in page.events if each.kind == "vault.expired"]

    announce(ann, NOON + DAY)
    ann.change(lambda tx: tx.vault_checkers.allow_role("ann", allowed=True))
    announce(ann, NOON + 2 * DAY)
    everything = ["ann/web", "ann/mail"]
    assert (
        read(Role.OPERATOR) == read(Role.AUDITOR) == read(client="ann") == read(client="shop") == everything
    )
    assert read(Role.CHECKER) == ["ann/mail"]
    assert read(Role.OWNER, Role.FRONT_END) == read(client="eve") == read(client="bob") == []


@pytest.mark.parametrize(
    ("length", "names"),
    [
        (60 * DAY, ["30-days", "7-days", "1-day", "end"]),
        (60 * DAY - SECOND, ["third", "tenth", "end"]),
        (SECOND, ["third", "tenth", "end"]),
        (timedelta(0), ["end"]),
    ],
)
def test_thresholds(length: timedelta, names: list[Any]) -> None:
    term = Term(NOON, NOON + length)
    assert [name for _, name in term.thresholds] == names
    times = [at for at, _ in term.thresholds]
    assert times == sorted(times)
    assert times[-1] == term.end
    assert term.next_due(NOON - SECOND) == times[0]
    assert term.next_due(term.end) is None
    assert term.passed(term.end, times[0]) == tuple(names)
