"""Revocation lists that are signed before they end, by one of several daemons, with a clock that the test sets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.front.access.identity import DAEMON
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.authorities import list_keeper
from hsmd.daemon.front.authorities.issuing import Issuing
from hsmd.daemon.front.authorities.list_keeper import (
    BUSY_S,
    CHECK_S,
    GRACE_S,
    HOLD,
    LEASE,
    RETRY_S,
    ListKeeper,
)
from hsmd.errors import Unavailable
from hsmd.protocol.messages import ListEnd
from tests.support.polling import eventually
from tests.support.software_authority import NOW, Site

WEEK, SECOND = timedelta(days=7), timedelta(seconds=1)
DUE = 2 * WEEK / 3
AT = ("http://ca.example.com/1.crl",)


class Keeper:
    """A keeper of one daemon."""

    def __init__(self, site: Site, directory: Path, holder: str) -> None:
        self.directory = directory / holder
        self.audit = AuditLog.open(self.directory)
        self.cache = SnapshotCache(site.store)
        self.clock = 0.0
        self.tokens = {"main"}
        issuing = Issuing(cache=self.cache, service=None, now=lambda: site.now)  # type: ignore[arg-type]
        self.keeper = ListKeeper(
            cache=self.cache,
            audit=self.audit,
            issuing=issuing,
            holder=holder,
            can_sign=lambda token: token in self.tokens,
            now=lambda: site.now,
            clock=lambda: self.clock,
        )
        self.check, self.first = self.keeper.check, self.keeper.first

    def records(self) -> list[dict[str, Any]]:
        lines = (self.directory / "audit.jsonl").read_text().splitlines()
        return [record["fields"] | {"event": record["event"]} for record in map(json.loads, lines)]


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    """`root`, which keeps no list, and `listing`, which says where its list is."""
    made = Site(tmp_path, monkeypatch)
    made.add_authority("listing", AT)
    yield made
    made.store.close()


@pytest.fixture
async def keepers(site: Site, tmp_path: Path) -> AsyncIterator[tuple[Keeper, Keeper]]:
    made = Keeper(site, tmp_path, "one"), Keeper(site, tmp_path, "two")
    yield made
    for each in made:
        await each.audit.close()


@pytest.fixture
def one(keepers: tuple[Keeper, Keeper]) -> Keeper:
    return keepers[0]


def number(site: Site, name: str = "listing") -> int:
    """How many lists were begun: numbers are times, and these tests sign at three of them."""
    found = site.store.query(lambda tx: tx.authorities.get(name)).list_number
    return {0: 0, _seconds(NOW): 1, _seconds(NOW + HOLD): 1, _seconds(NOW + DUE): 2}[found]


def _seconds(at: datetime) -> int:
    return int(at.timestamp())


def ends(site: Site, name: str = "listing") -> Any:
    return site.store.query(lambda tx: tx.authorities.get(name)).list_ends


async def test_the_first_list_is_signed_at_once_and_the_next_after_two_thirds(
    site: Site, one: Keeper
) -> None:
    assert await one.check() == CHECK_S
    assert (number(site), ends(site)) == (1, NOW + WEEK)
    listed = site.store.query(lambda tx: tx.authorities.get("listing")).list_der
    assert x509.load_der_x509_crl(listed).next_update_utc == NOW + WEEK
    site.now = NOW + DUE - SECOND
    assert await one.check() == 1.0
    assert number(site) == 1
    site.now = NOW + DUE
    await one.check()
    assert (number(site), ends(site)) == (2, NOW + DUE + WEEK)
    assert number(site, "root") == 0


async def test_an_authority_that_has_signed_a_list_keeps_it(site: Site, one: Keeper) -> None:
    site.add_authority("outside", AT, certified=False)
    await one.cache.refresh()
    await site.issuing.sign_list(DAEMON, await site.authority(), 0.0)
    await one.check()
    assert number(site, "root") == 1
    site.now = NOW + DUE
    await one.check()
    assert number(site, "root") == 2
    assert number(site, "outside") == 0
    assert {each.authority for each in one.first(9)} == {"root", "listing"}


async def test_a_list_is_on_the_record_as_the_daemons_own(site: Site, one: Keeper) -> None:
    await one.check()
    begun, done = one.records()
    assert (begun["event"], done["event"]) == ("control.begun", "control.done")
    assert begun["op"] == done["op"] == "ca.crl"
    assert begun["target_authority"] == done["target_authority"] == "listing"


async def test_one_of_two_daemons_signs(site: Site, keepers: tuple[Keeper, Keeper]) -> None:
    for at in (timedelta(0), DUE):
        site.now = NOW + at
        waits = await asyncio.gather(*(each.check() for each in keepers))
        assert max(waits) == CHECK_S
    assert number(site) == 2
    assert [len(each.records()) for each in keepers] in ([4, 0], [2, 2], [0, 4])


async def test_a_daemon_whose_token_is_away_leaves_it_to_the_others(
    site: Site, keepers: tuple[Keeper, Keeper]
) -> None:
    one, two = keepers
    one.tokens.clear()
    assert await one.check() == BUSY_S
    assert (number(site), one.records()) == (0, [])
    await two.check()
    assert number(site) == 1
    assert await one.check() == CHECK_S


async def test_a_failure_is_tried_again_after_a_pause_and_by_others_at_once(
    site: Site, keepers: tuple[Keeper, Keeper], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = keepers
    logged: list[tuple[str, Any]] = []
    monkeypatch.setattr(
        list_keeper.log, "error", lambda event, **more: logged.append((event, more.get("reason")))
    )
    site.fails = Unavailable("the token is away")
    assert await one.check() == RETRY_S
    assert logged == [("authority.list_not_signed", "the token is away")]
    assert [each["event"] for each in one.records()] == ["control.begun", "control.failed"]
    one.clock = RETRY_S - 1
    assert await one.check() == BUSY_S
    assert len(logged) == 1
    site.fails = None
    await two.check()
    assert ends(site) == NOW + WEEK
    site.now, site.fails = NOW + DUE, Unavailable("again")
    one.clock = RETRY_S
    await one.check()
    assert len(logged) == 2
    one.clock, site.fails = 2 * RETRY_S, None
    assert await one.check() == CHECK_S
    assert ends(site) == NOW + DUE + WEEK


async def test_a_fault_in_one_list_keeps_no_other_from_being_signed(
    site: Site, one: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.add_authority("broken", AT)
    await one.cache.refresh()
    read = one.keeper._issuing.read

    async def broken(name: str) -> Any:
        if name == "broken":
            raise KeyError("a reason of a later release")
        return await read(name)

    monkeypatch.setattr(one.keeper._issuing, "read", broken)
    assert await one.check() == CHECK_S == RETRY_S
    assert (number(site), number(site, "broken")) == (1, 0)
    assert one.records()[1]["error"] == "internal fault"
    assert [each.authority for each in one.first(9)] == ["listing"]
    one.clock = GRACE_S
    assert one.first(1) == [ListEnd("broken", "ended")]


async def test_a_daemon_that_was_killed_keeps_the_others_waiting_for_a_while(
    site: Site, keepers: tuple[Keeper, Keeper]
) -> None:
    one, two = keepers
    site.store.change(lambda tx: tx.leases.acquire(LEASE, "killed", NOW, HOLD), versioned=False)
    assert await one.check() == BUSY_S
    assert number(site) == 0
    site.now = NOW + HOLD
    await two.check()
    assert number(site) == 1


async def test_a_certificate_that_is_stored_wakes_the_keeper(site: Site, one: Keeper) -> None:
    following = asyncio.create_task(one.keeper.follow())
    try:
        await eventually(lambda: number(site) == 1)
        site.add_authority("new", AT)
        await one.cache.refresh()
        await eventually(lambda: number(site, "new") == 1)
    finally:
        following.cancel()


async def test_how_lists_stand(site: Site, one: Keeper) -> None:
    one.tokens.clear()
    await one.check()
    assert one.first(9) == [], "it may be under way"
    one.clock = GRACE_S
    assert one.first(9) == [ListEnd("listing", "ended")]
    one.tokens.add("main")
    await one.check()
    one.tokens.clear()
    await site.issuing.sign_list(DAEMON, await site.authority(), 0.0)
    for at, state in (
        (timedelta(0), "valid"), (WEEK - WEEK / 6 - SECOND, "valid"), (WEEK - WEEK / 6, "ending"), (WEEK, "ended"),
    ):  # fmt: skip
        site.now = NOW + at
        await one.check()
        assert [each.state for each in one.first(9)] == [state, state]
    assert one.first(1) == [ListEnd("listing", "ended", NOW + WEEK)]
