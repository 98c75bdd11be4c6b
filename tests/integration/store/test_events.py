"""Events: pages, cursors, readers, keys, pruning and restores."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from hsmd.daemon.store import EventPage, Gap, Readers, Store, event_rows
from hsmd.errors import InternalFault
from hsmd.protocol.cursor import Cursor
from hsmd.protocol.roles import Role
from tests.support.store import NOW

OPERATORS = Readers(roles=frozenset({Role.OPERATOR}))
BOTH = Readers(roles=frozenset({Role.OPERATOR, Role.AUDITOR}), clients=frozenset({7}))


def append(store: Store, *subjects: str, readers: Readers = BOTH, now: datetime = NOW, **more: Any) -> None:
    def action(tx: Any) -> None:
        for subject in subjects:
            tx.events.append(
                "token.away", subject, readers=readers, payload={"token": subject}, now=now, **more
            )

    store.change(action, versioned=False)


def page(
    store: Store, since: Cursor | None = None, *, readers: Readers = OPERATORS, limit: int = 100
) -> EventPage:
    return store.query(lambda tx: tx.events.page(readers, since, limit))


def subjects(found: EventPage) -> list[str]:
    return [event.subject for event in found.events]


def head(store: Store) -> Cursor:
    return store.query(lambda tx: tx.events.head())


def test_a_reader_gets_each_event_once_and_in_order(store: Store) -> None:
    start = head(store)
    assert page(store, start) == EventPage((), start, Gap.NONE, False), "nothing happened yet"
    append(store, "a", "b")
    append(store, "c")
    first = page(store, start, limit=2)
    assert (subjects(first), first.more, first.missed) == (["a", "b"], True, False)
    event = first.events[1]
    assert (event.kind, event.payload, event.at) == ("token.away", {"token": "b"}, NOW)
    assert event.cursor == first.cursor
    rest = page(store, first.cursor)
    assert (subjects(rest), rest.more, rest.cursor) == (["c"], False, head(store))
    assert subjects(page(store, rest.cursor)) == []
    assert subjects(page(store)) == ["a", "b", "c"]


def test_a_reader_sees_its_own_events_only(store: Store) -> None:
    start = head(store)
    append(store, "for-7", readers=Readers(clients=frozenset({7})))
    append(store, "for-auditors", readers=Readers(roles=frozenset({Role.AUDITOR})))
    append(store, "for-no-reader", readers=Readers())
    append(store, "for-both")
    assert subjects(page(store, start)) == ["for-both"]
    assert subjects(page(store, start, readers=Readers(clients=frozenset({7})))) == ["for-7", "for-both"]
    assert subjects(page(store, start, readers=BOTH)) == ["for-7", "for-auditors", "for-both"]
    stranger = page(store, start, readers=Readers(frozenset({Role.FRONT_END}), frozenset({70})))
    assert (subjects(stranger), stranger.cursor) == ([], head(store)), "its cursor stays new all the same"
    assert subjects(page(store, start, readers=Readers())) == []


def test_an_event_with_a_known_key_is_not_appended_again(store: Store) -> None:
    start = head(store)
    append(store, "a", "a", dedup="once")
    append(store, "b", dedup="once")
    append(store, "c", dedup="twice")
    assert subjects(page(store, start)) == ["a", "c"]
    assert head(store).number == start.number + 2, "no number is skipped"


def test_what_is_rolled_back_never_happened(store: Store) -> None:
    start = head(store)

    def fail(tx: Any) -> None:
        tx.events.append("token.away", "a", readers=BOTH, payload={}, now=NOW, dedup="k")
        raise ValueError("power cut")

    with pytest.raises(ValueError, match="power cut"):
        store.change(fail)
    assert head(store) == start
    append(store, "b", dedup="k")
    assert subjects(page(store, start)) == ["b"]


def test_events_do_not_change_the_version(store: Store) -> None:
    before = store.version()
    append(store, "a")
    store.change(lambda tx: tx.events.prune(NOW + timedelta(days=500)), versioned=False)
    assert store.version() == before


def test_a_page_is_bounded_in_events_and_bytes(store: Store) -> None:
    big = {"text": "x" * 4000}
    store.change(
        lambda tx: [
            tx.events.append("log.nearly-full", str(number), readers=BOTH, payload=big, now=NOW)
            for number in range(100)
        ],
        versioned=False,
    )
    seen: list[str] = []
    since: Cursor | None = None
    while True:
        found = page(store, since, limit=10**6)
        assert sum(len(event.payload["text"]) for event in found.events) <= event_rows.MAX_PAGE_BYTES
        seen += subjects(found)
        since = found.cursor
        if not found.more:
            break
    assert seen == [str(number) for number in range(100)]
    append(store, *[str(number) for number in range(900)])
    assert len(page(store, since, limit=10**6).events) == event_rows.MAX_PAGE_EVENTS
    assert len(page(store, since, limit=0).events) == 1, "a page makes progress"


@pytest.mark.parametrize(
    "wrong",
    [
        {"payload": {"text": "x" * 4100}},
        {"subject": "x" * 257},
        {"subject": "a\0b"},
        {"kind": "x" * 65},
        {"dedup": "x" * 257},
    ],
)
def test_a_producer_cannot_append_what_does_not_fit(store: Store, wrong: dict[str, Any]) -> None:
    given: dict[str, Any] = {"kind": "token.away", "subject": "a", "dedup": "", "payload": {}, **wrong}

    def action(tx: Any) -> None:
        tx.events.append(
            given["kind"],
            given["subject"],
            readers=BOTH,
            payload=given["payload"],
            now=NOW,
            dedup=given["dedup"],
        )

    with pytest.raises(InternalFault):
        store.change(action, versioned=False)
    assert page(store).events == ()


def prune(store: Store, now: datetime) -> list[int]:
    steps = []
    while removed := store.change(lambda tx: tx.events.prune(now), versioned=False):
        steps.append(removed)
    return steps


def test_old_events_are_pruned_and_an_expired_cursor_is_told_apart(store: Store) -> None:
    start = head(store)
    append(store, "old", dedup="k")
    old = head(store)
    append(store, "newer", now=NOW + timedelta(days=80))
    now = NOW + timedelta(days=90)
    assert prune(store, now) == [], "an event of exactly 90 days is kept"
    assert prune(store, now + timedelta(seconds=1)) == [1]
    expired = page(store, start)
    assert (subjects(expired), expired.gap) == (["newer"], Gap.EXPIRED)
    assert page(store, old).gap is Gap.NONE, "this reader has read what was removed"
    empty = page(store, head(store))
    assert (subjects(empty), empty.gap) == ([], Gap.NONE)
    assert page(store).gap is Gap.NONE, "who asks for the oldest event gets it"
    append(store, "again", dedup="k")
    assert subjects(page(store)) == ["newer"], "keys outlive events"
    prune(store, NOW + timedelta(days=401))
    assert subjects(page(store)) == []
    assert page(store, old).gap is Gap.EXPIRED
    append(store, "again", dedup="k")
    assert subjects(page(store)) == ["again"]


def test_events_beyond_a_number_are_pruned_in_bounded_steps(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_rows, "KEPT_EVENTS", 20)
    monkeypatch.setattr(event_rows, "PRUNE_STEP", 10)
    append(store, *[str(number) for number in range(55)])
    assert prune(store, NOW) == [10, 10, 10, 5]
    assert subjects(page(store)) == [str(number) for number in range(35, 55)]


def test_an_event_of_a_clock_that_was_ahead_does_not_keep_others(store: Store) -> None:
    append(store, "old")
    append(store, "ahead", now=NOW + timedelta(days=9_000))
    append(store, "old too")
    append(store, "new", now=NOW + timedelta(days=100))
    prune(store, NOW + timedelta(days=100))
    assert subjects(page(store)) == ["new"]


def test_cursors_of_other_ledgers_and_of_the_future_are_told_apart(store: Store) -> None:
    append(store, "a")
    now = head(store)
    for unknown in (Cursor(now.epoch, now.number + 1), Cursor("00000000", 1), Cursor("00000000", 0)):
        found = page(store, unknown)
        assert (subjects(found), found.gap, found.cursor) == (["a"], Gap.UNKNOWN, now)


def test_a_restore_begins_an_epoch(store: Store, restored: Callable[[bytes], Store]) -> None:
    append(store, "a", dedup="k")
    after_a = head(store)
    append(store, "b")
    document = store.export()
    after_b = head(store)
    append(store, "lost")
    after_lost = head(store)

    new = restored(document)
    assert head(new).epoch != after_b.epoch
    append(new, "c")
    append(new, "a", dedup="k")
    for since, expected in ((after_a, ["b", "c"]), (after_b, ["c"]), (after_lost, ["c"])):
        found = page(new, since)
        assert (subjects(found), found.gap) == (expected, Gap.RESTORED)
        assert page(new, found.cursor) == EventPage((), head(new), Gap.NONE, False)
    assert [event.cursor.epoch for event in page(new).events] == [after_b.epoch] * 2 + [head(new).epoch]
    again = restored(new.export())
    found = page(again, after_lost)
    assert (subjects(found), found.gap) == (["c"], Gap.RESTORED), "earlier epochs are remembered"
