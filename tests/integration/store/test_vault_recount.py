"""Counts of a restored store are raised to what audit logs tell, on both databases; nothing lowers one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import event

from hsmd.daemon.backup import recount as recounting
from hsmd.daemon.backup.known_counts import KnownCounts
from hsmd.daemon.backup.recount import Recount
from hsmd.daemon.store import Acquisition, Given, NotGiven, Store
from hsmd.envelopes.vault.life_cycle import Reason
from hsmd.transparency.lines import event_tail
from tests.support.audit_logs import rechained
from tests.support.vault_store import Owner


@pytest.fixture
def ann(store: Store) -> Owner:
    owner = Owner(store).enrol()
    owner.begin()
    return owner


def recorded(acquisition: Acquisition) -> str:
    """The tail of the record of an acquisition."""
    each = acquisition
    outcome = {"refusal": each.refusal} if each.refusal else {"released": each.released}
    fields = {"owner": each.owner, "record": each.record, "version": each.version, "request": each.request}
    return event_tail("vault.acquired", each.owner, fields | outcome | {"ticket": each.ticket})


def log_file(path: Path, acquisitions: list[Acquisition]) -> Path:
    path.write_bytes(b"".join(rechained(map(recorded, acquisitions))))
    return path


def take(owner: Owner, *records: str) -> list[Acquisition]:
    return [owner.get(record).acquisition for record in records]


def counts(owner: Owner, *records: str) -> list[tuple[int, int]]:
    found = [owner.look(record) for record in records]
    return [(each.requests, each.released) for each in found]


def recounted(document: bytes, store: Store, *logs: Path) -> int:
    """How many versions were raised."""
    recount = Recount(KnownCounts.of(document))
    for log in logs:
        recount.read(log)
    return recount.apply(store).versions


def test_no_use_comes_back_with_a_restore(
    ann: Owner, restored: Callable[[bytes], Store], tmp_path: Path, now: datetime
) -> None:
    """Two daemons count together; what each recorded after the backup counts, and the maximum holds."""
    ann.put("web", max_uses=4, mode="deny")
    ann.put("mail", max_uses=4, mode="deny")
    first = take(ann, "web")
    document = ann.store.export()
    east = log_file(tmp_path / "east", [*first, *take(ann, "web", "mail")])
    west = log_file(tmp_path / "west", take(ann, "web"))
    east_again = log_file(tmp_path / "again", [*first, *take(ann, "web", "web", "web")])
    before = counts(ann, "web", "mail")
    assert before == [(6, 4), (1, 1)]

    ann.store = restored(document)
    assert counts(ann, "web", "mail") == [(1, 1), (0, 0)]
    assert recounted(document, ann.store, west) == 1
    assert counts(ann, "web", "mail") == [(3, 3), (0, 0)]
    assert recounted(document, ann.store, east, west, east_again) == 2
    assert counts(ann, "web", "mail") == before
    assert recounted(document, ann.store, west, east_again, east) == 0
    assert counts(ann, "web", "mail") == before

    assert ann.look("web").held, "the owner has to state limits again"
    digest = ann.management.digest
    ann.change(lambda tx: tx.vault_keys.confirm("ann", digest, "again", now))
    for record in ("web", "mail"):
        ann.limit(record)
    refused = ann.get("web")
    assert isinstance(refused, NotGiven) and refused.standing.reason is Reason.LIMIT
    assert isinstance(ann.get("mail"), Given)
    assert counts(ann, "web", "mail") == [(7, 4), (2, 2)]


def test_requests_and_releases_rise_apart(ann: Owner) -> None:
    """A log may tell of more requests than the store, and of fewer releases."""
    row = ann.put("web").row
    for _ in range(3):
        ann.get("web")

    def raised(requests: int, released: int) -> tuple[int, int, int]:
        count = ann.change(lambda tx: tx.vault_acquisitions.raise_counts([(row, requests, released)]))
        return (count, *counts(ann, "web")[0])

    assert raised(2, 1) == (0, 3, 3)
    assert raised(5, 1) == (1, 5, 3)
    assert raised(2, 2) == (0, 5, 3)
    assert raised(4, 4) == (1, 5, 4)
    assert raised((1 << 53) - 1, (1 << 53) - 1) == (1, (1 << 53) - 1, (1 << 53) - 1)


def test_counts_are_raised_in_transactions_of_bounded_size(
    ann: Owner, restored: Callable[[bytes], Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recounting, "AT_ONCE", 2)
    records = [f"key-{number}" for number in range(5)]
    for record in records:
        ann.put(record)
    document = ann.store.export()
    log = log_file(tmp_path / "log", take(ann, *records))
    ann.store = restored(document)
    commits: list[object] = []
    event.listen(ann.store._engine, "commit", commits.append)
    assert recounted(document, ann.store, log) == 5
    assert len(commits) == 3
    assert counts(ann, *records) == [(1, 1)] * 5
