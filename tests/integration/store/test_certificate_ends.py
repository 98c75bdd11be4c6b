"""Which certificates have ended or end soon: as counted from all rows, whatever has changed and whichever daemon changed it."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from hsmd.daemon.front.access import certificate_ends
from hsmd.daemon.front.access.certificate_ends import CertificateEnds
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.store import Store
from tests.support.store import NOW, key_record

DAY = timedelta(days=1)


def put(store: Store, key: str, end: datetime, term: timedelta | None = 365 * DAY) -> None:
    with store.write() as tx:
        if key not in {each.name for each in tx.keys.all()}:
            tx.keys.add(key_record(key))
        tx.certificates.set(key, f"chain {end} {term}", end, end - term if term else None)


def ends(store: Store, at: datetime, warn_days: int = 14) -> CertificateEnds:
    return CertificateEnds(SnapshotCache(store), warn_days, now=lambda: at)


@pytest.mark.parametrize(
    ("term", "left", "state"),
    [
        (365 * DAY, 15 * DAY, "valid"),
        (365 * DAY, 14 * DAY, "ending"),
        (365 * DAY, timedelta(seconds=1), "ending"),
        (365 * DAY, 0 * DAY, "ended"),
        (365 * DAY, -DAY, "ended"),
        (6 * DAY, 1.21 * DAY, "valid"),
        (6 * DAY, 1.2 * DAY, "ending"),
        (None, 15 * DAY, "valid"),
        (None, 14 * DAY, "ending"),
        (10 * DAY, 11 * DAY, "not-yet-valid"),
    ],
)
def test_the_state_of_a_certificate(
    store: Store, term: timedelta | None, left: timedelta, state: str
) -> None:
    put(store, "shop", NOW + left, term)
    found = ends(store, NOW)
    assert found.state("shop") == state
    assert [(each.key, each.not_after, each.state) for each in found.first(1)] == [
        ("shop", NOW + left, state)
    ]
    counts = found.counts()
    assert (counts.stored, counts.ended, counts.ending) == (1, state == "ended", state == "ending")
    assert found.state("unknown") == ""


@pytest.mark.parametrize("one_by_one", [0, 1_000])
async def test_changes_of_any_daemon_are_followed(
    make_store: Callable[[], Store], monkeypatch: pytest.MonkeyPatch, one_by_one: int
) -> None:
    monkeypatch.setattr(certificate_ends, "MOST_ONE_BY_ONE", one_by_one)
    random_source = random.Random(7)
    mine, other = make_store(), make_store()
    cache = SnapshotCache(mine)
    found = CertificateEnds(cache, 14, now=lambda: NOW)
    for _ in range(12):
        for _ in range(random_source.randrange(1, 4)):
            name = f"k{random_source.randrange(6)}"
            if random_source.random() < 0.25 and name in {each.name for each in mine.load().keys}:
                other.change(lambda tx, name=name: tx.keys.remove(name))
            else:
                put(other, name, NOW + random_source.randrange(-10, 30) * DAY)
        await cache.refresh()
        rows = sorted(mine.load().certificates, key=lambda each: each.not_after)
        counts = found.counts()
        assert counts.stored == len(rows)
        assert counts.ended == sum(row.not_after <= NOW for row in rows)
        assert counts.ending == sum(NOW < row.not_after <= NOW + 14 * DAY for row in rows)
        first = found.first(3)
        assert [each.not_after for each in first] == [row.not_after for row in rows[:3]]
        assert {each.key for each in first} <= {row.key for row in rows}


def test_the_setting_can_change(store: Store) -> None:
    put(store, "shop", NOW + 20 * DAY)
    found = ends(store, NOW)
    assert found.counts().ending == 0
    found.apply(30)
    assert (found.counts().ending, found.state("shop")) == (1, "ending")
    found.apply(0)
    assert (found.counts().ending, found.state("shop")) == (0, "valid")


def test_a_row_of_an_earlier_release_has_no_begin(store: Store) -> None:
    put(store, "shop", NOW + DAY, None)
    assert store.load().certificates[0].not_before is None
    put(store, "shop", NOW + DAY, 2 * DAY)
    assert store.load().certificates[0].not_before == NOW - DAY
