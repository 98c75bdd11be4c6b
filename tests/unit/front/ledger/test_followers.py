"""Followers on a reader in memory: order, one page at a time, outages of the store, the end of an identity, limits."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from hsmd.daemon.front.access.credentials import KeyCredential
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.ledger import followers
from hsmd.daemon.front.ledger.followers import KEPT_PLACES, MAX_FOLLOWERS, MAX_OF_CLIENT, Followers
from hsmd.errors import Overloaded, Refused, StoreFailure
from hsmd.protocol.messages import Event, EventPage
from hsmd.protocol.roles import Role
from tests.support.polling import eventually

NOW = datetime(2030, 1, 2, tzinfo=UTC)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followers, "POLL_S", 0.01)
    monkeypatch.setattr(followers, "REST_S", 0.001)
    monkeypatch.setattr(followers, "PAGE", 3)


def cursor(number: int) -> str:
    return f"5f3a9c1e.{number}"


class Ledger:
    """Events 1 to `size`, of which those up to `pruned` are no longer kept. Stands for an `EventReader`."""

    def __init__(self) -> None:
        self.size, self.pruned = 0, 0
        self.shown = True
        self.away: Exception | None = None
        self.reads = 0

    async def head(self) -> int:
        if self.away is not None:
            raise self.away
        return self.size

    async def page(self, identity: Identity, since: str, limit: int) -> EventPage:
        self.reads += 1
        await asyncio.sleep(0)
        if self.away is not None:
            raise self.away
        asked = int(since.partition(".")[2])
        begin = max(asked, self.pruned)
        end = min(begin + limit, self.size)
        events = [
            Event(cursor(number), "k", "s", NOW, {}) for number in range(begin + 1, end + 1) if self.shown
        ]
        missed = "expired" if begin > asked else ""
        return EventPage(events, cursor(begin), cursor(end), end < self.size, missed)


class Peer:
    """A session that reads, or not, as the test says."""

    def __init__(self, client: str = "web", reads: bool = True, role: Role = Role.FRONT_END) -> None:
        self.identity = Identity(client, frozenset({role}), KeyCredential("F"))
        self.pages: list[list[str]] = []
        self.kinds: list[str] = []
        self.reads = reads
        self.pong: asyncio.Future[None] | None = None

    def push(self, documents: Sequence[bytes]) -> asyncio.Future[None]:
        events = [msgspec.json.decode(document, type=Event) for document in documents]
        self.pages.append([event.id.partition(".")[2] for event in events])
        self.kinds += [event.kind for event in events]
        self.pong = asyncio.get_running_loop().create_future()
        if self.reads:
            self.pong.set_result(None)
        return self.pong

    @property
    def seen(self) -> list[str]:
        return [number for page in self.pages for number in page]


class Parts:
    def __init__(self) -> None:
        self.ledger = Ledger()
        self.valid = True
        reader: Any = self.ledger
        self.followers = Followers(reader, knows=lambda identity: self.valid, now=lambda: NOW)
        self.polling = asyncio.get_running_loop().create_task(self.followers.poll())


@pytest.fixture
async def parts() -> Any:
    made = Parts()
    yield made
    made.polling.cancel()


def numbers(first: int, last: int) -> list[str]:
    return [str(number) for number in range(first, last + 1)]


async def test_events_come_in_order_page_by_page_and_then_as_they_happen(parts: Parts) -> None:
    peer = Peer()
    parts.ledger.size = 7
    parts.followers.start(peer, cursor(2))
    await eventually(lambda: peer.seen == numbers(3, 7))
    assert [len(page) for page in peer.pages] == [3, 2]
    parts.ledger.size = 8
    parts.followers.wake()
    await eventually(lambda: peer.seen == numbers(3, 8))
    parts.ledger.size = 9  # of another daemon: nothing wakes the followers but the polling
    await eventually(lambda: peer.seen == numbers(3, 9))


async def test_the_next_page_waits_for_the_peer_and_other_peers_do_not(parts: Parts) -> None:
    stuck, other = Peer(reads=False), Peer()
    parts.ledger.size = 9
    for peer in (stuck, other):
        parts.followers.start(peer, cursor(0))
    await eventually(lambda: other.seen == numbers(1, 9))
    assert stuck.seen == numbers(1, 3)
    stuck.reads = True
    assert stuck.pong is not None
    stuck.pong.set_result(None)
    await eventually(lambda: stuck.seen == numbers(1, 9))


async def test_events_that_were_removed_meanwhile_are_told(parts: Parts) -> None:
    peer = Peer(reads=False)
    parts.ledger.size = 9
    parts.followers.start(peer, cursor(0))
    await eventually(lambda: peer.seen == numbers(1, 3))
    parts.ledger.pruned = 7
    peer.reads = True
    assert peer.pong is not None
    peer.pong.set_result(None)
    await eventually(lambda: peer.seen[3:] == ["7", "8", "9"])
    assert peer.kinds[3:] == ["events.missed", "k", "k"]


async def test_followers_wait_while_the_store_is_away_and_catch_up(parts: Parts) -> None:
    peer = Peer()
    parts.followers.start(peer, cursor(0))
    parts.ledger.away = StoreFailure()
    parts.ledger.size = 2
    parts.followers.wake()
    await eventually(lambda: parts.ledger.reads > 5)
    assert peer.seen == []
    parts.ledger.away = None
    await eventually(lambda: peer.seen == numbers(1, 2))


async def test_a_follower_ends_when_its_identity_is_no_longer_valid(parts: Parts) -> None:
    peer = Peer()
    parts.followers.start(peer, cursor(0))
    await eventually(lambda: parts.ledger.reads == 1)
    parts.valid = False
    parts.ledger.size = 1
    parts.followers.wake()
    await eventually(lambda: len(parts.followers) == 0)
    assert peer.seen == []


async def test_a_follower_that_may_not_read_any_more_ends(parts: Parts) -> None:
    parts.ledger.away = Refused()
    parts.followers.start(Peer(), cursor(0))
    await eventually(lambda: len(parts.followers) == 0)


async def test_a_session_follows_once_and_its_end_ends_that(parts: Parts) -> None:
    peer = Peer()
    parts.ledger.size = 2
    parts.followers.start(peer, cursor(0))
    await eventually(lambda: peer.seen == numbers(1, 2))
    parts.followers.start(peer, cursor(1))
    await eventually(lambda: peer.seen == ["1", "2", "2"])
    assert len(parts.followers) == 1
    parts.followers.stop(peer)
    parts.followers.stop(peer)
    parts.ledger.size = 3
    await asyncio.sleep(0.05)
    assert (peer.seen, len(parts.followers)) == (["1", "2", "2"], 0)


async def test_a_client_and_all_clients_have_a_limited_number_of_followers(parts: Parts) -> None:
    peers = [Peer("web") for _ in range(MAX_OF_CLIENT)]
    for peer in peers:
        parts.followers.admit(peer)
        parts.followers.start(peer, cursor(0))
    with pytest.raises(Overloaded):
        parts.followers.admit(Peer("web"))
    parts.followers.admit(peers[0])  # a session that follows already takes no other place
    for number in range(MAX_FOLLOWERS - MAX_OF_CLIENT):
        parts.followers.admit(other := Peer(f"c{number}", role=Role.AUDITOR))
        parts.followers.start(other, cursor(0))
    with pytest.raises(Overloaded) as refused:
        parts.followers.admit(Peer("new", role=Role.AUDITOR))
    assert refused.value.retry_after_ms > 0
    for peer in list(parts.followers._tasks):
        parts.followers.stop(peer)


async def test_agents_leave_places_to_operators_and_auditors(parts: Parts) -> None:
    for number in range(MAX_FOLLOWERS - KEPT_PLACES):
        parts.followers.admit(agent := Peer(f"web{number}"))
        parts.followers.start(agent, cursor(0))
    with pytest.raises(Overloaded):
        parts.followers.admit(Peer("new"))
    for number in range(KEPT_PLACES):
        parts.followers.admit(Peer(f"o{number}", role=Role.OPERATOR))
    with pytest.raises(Overloaded):
        parts.followers.admit(Peer("late", role=Role.OPERATOR))
    for peer in list(parts.followers._tasks):
        parts.followers.stop(peer)


async def test_sessions_that_have_asked_to_follow_take_a_place_until_they_are_answered(parts: Parts) -> None:
    """Otherwise any number that ask at the same time would be admitted, because none of them follows yet."""
    asking = [Peer("web") for _ in range(MAX_OF_CLIENT)]
    for peer in [*asking, asking[0]]:
        parts.followers.admit(peer)
    late = Peer("web")
    with pytest.raises(Overloaded):
        parts.followers.admit(late)
    parts.followers.decline(asking[0])  # one of its two requests
    with pytest.raises(Overloaded):
        parts.followers.admit(late)
    parts.followers.start(asking[0], cursor(0))
    with pytest.raises(Overloaded):
        parts.followers.admit(late)
    parts.followers.decline(asking[1])
    parts.followers.admit(late)
    with pytest.raises(Overloaded):
        parts.followers.admit(asking[1])
    parts.followers.stop(late)  # its session has ended before the answer, which declines once more
    parts.followers.decline(late)
    parts.followers.admit(asking[1])
    parts.followers.stop(asking[0])
    assert len(parts.followers) == 0
    for peer in asking:
        parts.followers.stop(peer)
    assert parts.followers._asking == {}


async def test_without_followers_the_store_is_not_asked(parts: Parts) -> None:
    asked = 0
    head = parts.ledger.head

    async def counted() -> int:
        nonlocal asked
        asked += 1
        return await head()

    parts.ledger.head = counted  # type: ignore[method-assign]
    await asyncio.sleep(0.05)
    assert asked == 0
    parts.followers.start(Peer(), cursor(0))
    await eventually(lambda: asked > 1)  # positive control


async def test_a_follower_that_nothing_concerns_is_told_its_position(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followers, "POSITION_EVENTS", 10)
    peer = Peer()
    parts.ledger.shown = False
    parts.followers.start(peer, cursor(0))
    for size, told in ((9, []), (10, ["10"]), (19, ["10"]), (25, ["10", "22"])):
        parts.ledger.size = size
        before = parts.ledger.reads
        parts.followers.wake()
        await eventually(lambda: parts.ledger.reads > before)
        await eventually(lambda: peer.seen == told)
    assert set(peer.kinds) == {"events.position"}


async def test_a_position_is_told_after_a_time_if_it_has_changed(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followers, "POSITION_S", 0.05)
    peer = Peer()
    parts.ledger.shown = False
    parts.followers.start(peer, cursor(0))
    await asyncio.sleep(0.1)
    assert peer.seen == []
    parts.ledger.size = 1
    await eventually(lambda: peer.seen == ["1"])
