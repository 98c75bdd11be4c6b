"""Events of a real daemon: read from a cursor, pushed in order, shown to those whom they concern, while it runs and after."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime

import pytest

from hsmd.client import Client, Connection
from hsmd.daemon.front.ledger.followers import MAX_OF_CLIENT, PAGE
from hsmd.daemon.front.ssh.session import UNREAD_S
from hsmd.daemon.store import Readers, Store
from hsmd.errors import BadRequest, Conflict, Overloaded
from hsmd.protocol import messages
from hsmd.protocol.frames import Kind, encode_hello
from hsmd.protocol.messages import Event
from hsmd.protocol.roles import Role
from tests.support.daemon import AUDITOR, MAIL, OPERATOR, WEB, Daemon
from tests.support.polling import eventually
from tests.support.ssh_peer import Wire, ssh, wire

OPERATORS = Readers(frozenset({Role.OPERATOR}))


def append(daemon: Daemon, *subjects: str, readers: Readers = OPERATORS, kind: str = "test.event") -> None:
    """What another daemon that shares the store would do: append one event for each subject."""
    store = Store(daemon.store_url)
    for subject in subjects:
        with store.write(versioned=False) as tx:
            tx.events.append(kind, subject, readers=readers, payload={"n": subject}, now=datetime.now(UTC))
    store.close()


def read(daemon: Daemon, client: str = OPERATOR, since: str = "", limit: int = 100) -> messages.EventPage:
    page: messages.EventPage = daemon.ask(messages.EventsRead(since, limit), client)
    return page


@asynccontextmanager
async def following(daemon: Daemon, client: str, since: str = "") -> AsyncIterator[list[Event]]:
    """The events that a client is sent, as they come."""
    seen: list[Event] = []

    async def collect(connection: Connection) -> None:
        async for event in connection.events(since):
            seen.append(event)  # noqa: PERF401  as they come

    async with daemon.connection(client) as connection:
        task = asyncio.create_task(collect(connection))
        try:
            yield seen
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def subjects(events: list[Event]) -> list[str]:
    return [event.subject for event in ours(events)]


def ours(events: list[Event]) -> list[Event]:
    """Without those of the shared daemon itself, whose health may change at any time."""
    return [event for event in events if not event.kind.startswith("health.")]


def test_pages_begin_behind_a_cursor_and_an_empty_one_is_not_an_expired_one(shared_daemon: Daemon) -> None:
    daemon = shared_daemon
    begin = read(daemon, since="now").cursor
    append(daemon, "a", "b", "c")
    first = read(daemon, since=begin, limit=2)
    assert (subjects(first.events), first.more, first.missed) == (["a", "b"], True, "")
    assert first.cursor == first.events[-1].id
    second = read(daemon, since=first.cursor)
    assert (subjects(second.events), second.more, second.missed) == (["c"], False, "")
    empty = read(daemon, since=second.cursor)
    assert (empty.events, empty.missed, empty.cursor) == ([], "", second.cursor)


@pytest.mark.parametrize("since", ["x", "1", "00000000.01", "zzzzzzzz.1", "now ", "." * 64])
def test_what_is_no_cursor_is_refused_by_name(shared_daemon: Daemon, since: str) -> None:
    with pytest.raises(BadRequest, match=r"^since: .* is not a cursor"):
        read(shared_daemon, since=since)


def test_a_cursor_of_another_store_is_told_apart(shared_daemon: Daemon) -> None:
    append(shared_daemon, "a")
    page = read(shared_daemon, since="00000000.7")
    assert page.missed == "unknown"
    assert page.events


async def test_a_follower_is_sent_what_there_is_and_then_what_happens_in_order(shared_daemon: Daemon) -> None:
    daemon = shared_daemon
    begin = (await asyncio.to_thread(read, daemon, since="now")).cursor
    await asyncio.to_thread(append, daemon, *"abc")
    async with following(daemon, OPERATOR, begin) as seen:
        await eventually(lambda: subjects(seen) == list("abc"))
        await asyncio.to_thread(append, daemon, *"def")
        await eventually(lambda: subjects(seen) == list("abcdef"))
    assert len({event.id for event in ours(seen)}) == 6
    async with following(daemon, OPERATOR, ours(seen)[3].id) as later:
        await eventually(lambda: subjects(later) == list("ef"))
    assert [event.id for event in ours(later)] == [event.id for event in ours(seen)[4:]]


async def test_a_follower_goes_on_where_it_was_when_the_daemon_was_away(
    open_daemon: Callable[..., Daemon],
) -> None:
    daemon = await asyncio.to_thread(open_daemon)
    begin = (await asyncio.to_thread(read, daemon, since="now")).cursor
    async with following(daemon, OPERATOR, begin) as seen:
        await asyncio.to_thread(append, daemon, "before")
        await eventually(lambda: subjects(seen) == ["before"])
        daemon.addresses = list(daemon.notice["addresses"])
        await asyncio.to_thread(daemon.stop)
        await asyncio.to_thread(append, daemon, "during")
        daemon.write()
        await asyncio.to_thread(daemon.start)
        await asyncio.to_thread(append, daemon, "after")
        await eventually(lambda: subjects(seen) == ["before", "during", "after"], 20)


async def test_certificates_and_enrolments_are_told_to_those_whom_they_concern(shared_daemon: Daemon) -> None:
    daemon = shared_daemon
    begin = (await asyncio.to_thread(read, daemon, since="now")).cursor
    await asyncio.to_thread(daemon.add_key, "shop", "p-256", "tls-server", grant_to=(WEB,))
    async with following(daemon, WEB, begin) as web, following(daemon, MAIL, begin) as mail:
        made = await asyncio.to_thread(
            daemon.ask, messages.CertificateSelfSigned("shop", ["shop.test"], days=90)
        )
        await eventually(lambda: len(web) == 1)
        (event,) = web
        assert (event.kind, event.subject) == ("certificate.replaced", "shop")
        assert set(event.payload) == {"key", "certificate", "previous", "not_after"}
        assert event.payload["previous"] == ""
        await asyncio.to_thread(daemon.ask, messages.CertificateImport("shop", made.pem))
        await asyncio.to_thread(daemon.ask, messages.CertificateSelfSigned("shop", ["shop.test"], days=90))
        await eventually(lambda: len(web) == 2)
        assert web[1].payload["previous"] == event.payload["certificate"]
        assert mail == []
    for client, count in ((OPERATOR, 2), (AUDITOR, 2), (WEB, 2), (MAIL, 0)):
        assert len((await asyncio.to_thread(read, daemon, client, begin)).events) == count


def test_programs_without_an_event_loop_follow_too(shared_daemon: Daemon) -> None:
    begin = read(shared_daemon, since="now").cursor
    append(shared_daemon, "a", "b")
    with Client.connect(shared_daemon.endpoint(OPERATOR)) as client:
        events = client.events(begin)
        assert [next(events).subject, next(events).subject] == ["a", "b"]
        append(shared_daemon, "c")
        assert next(events).subject == "c"
        events.close()  # type: ignore[attr-defined]
        assert client.control(messages.WhoAmI()).client == OPERATOR
        again = client.events(begin)
        assert next(again).subject == "a"


async def test_a_connection_follows_once_at_a_time(shared_daemon: Daemon) -> None:
    await asyncio.to_thread(append, shared_daemon, "a")
    async with shared_daemon.connection(OPERATOR) as connection:
        first = connection.events()
        await anext(first)
        with pytest.raises(Conflict, match="followed already"):
            await anext(connection.events())
        await first.aclose()
        assert await anext(connection.events())


@pytest.fixture
async def raw() -> AsyncIterator[Callable[..., Awaitable[Wire]]]:
    """Opens channels of a peer that answers no ping."""
    async with AsyncExitStack() as connections:

        async def open_channel(daemon: Daemon, client: str, capabilities: int = 3) -> Wire:
            connection = await connections.enter_async_context(await ssh(daemon, client))
            channel = await wire(connection, hello=False)
            channel.write(encode_hello(capabilities))
            return channel

        yield open_channel


Raw = Callable[..., Awaitable[Wire]]


def pushed(channel: Wire) -> list[str]:
    """Subjects of the events that a raw channel was sent."""
    return [json.loads(body)["subject"] for kind, _, body in channel.frames if kind == Kind.EVENT]


async def test_following_needs_the_capability_for_events(shared_daemon: Daemon, raw: Raw) -> None:
    channel = await raw(shared_daemon, OPERATOR, capabilities=1)
    error = await channel.error_of_control(1, messages.EventsFollow())
    assert isinstance(error, BadRequest)
    assert "capability for events" in error.text


async def test_a_peer_that_does_not_read_is_sent_one_page_delays_no_other_and_is_dropped(
    open_daemon: Callable[..., Daemon], raw: Raw
) -> None:
    daemon = await asyncio.to_thread(open_daemon)
    begin = (await asyncio.to_thread(read, daemon, since="now")).cursor
    stuck = await raw(daemon, OPERATOR)
    assert (await stuck.control(1, messages.EventsFollow(begin)))[0] == Kind.CONTROL_RESULT
    async with following(daemon, AUDITOR, begin) as seen:
        names = [str(number) for number in range(1_000)]
        await asyncio.to_thread(
            append, daemon, *names, readers=Readers(frozenset({Role.OPERATOR, Role.AUDITOR}))
        )
        await eventually(lambda: subjects(seen) == names, 20)
    assert 1 <= len(pushed(stuck)) <= PAGE
    assert pushed(stuck) == names[: len(pushed(stuck))]
    await eventually(stuck.closed.is_set, UNREAD_S + 5)
    assert daemon.logged("session.unread")


async def test_the_answer_comes_before_the_first_event_and_a_later_request_replaces_the_earlier(
    shared_daemon: Daemon, raw: Raw
) -> None:
    begin = (await asyncio.to_thread(read, shared_daemon, since="now")).cursor
    await asyncio.to_thread(append, shared_daemon, *"abc")
    channel = await raw(shared_daemon, OPERATOR)
    await channel.control(1, messages.EventsFollow(begin))
    await eventually(lambda: pushed(channel) == list("abc"))
    kinds = [kind for kind, _, _ in channel.frames if kind != Kind.WELCOME]
    assert kinds == [Kind.CONTROL_RESULT, *[Kind.EVENT] * 3, Kind.PING]
    await channel.control(2, messages.EventsFollow(begin))
    await eventually(lambda: pushed(channel) == list("abcabc"))


async def test_a_client_may_follow_on_a_limited_number_of_sessions(shared_daemon: Daemon, raw: Raw) -> None:
    channels = [await raw(shared_daemon, MAIL) for _ in range(MAX_OF_CLIENT + 1)]
    for channel in channels[:-1]:
        assert (await channel.control(1, messages.EventsFollow("now")))[0] == Kind.CONTROL_RESULT
    error = await channels[-1].error_of_control(1, messages.EventsFollow("now"))
    assert isinstance(error, Overloaded)
    assert error.retry_after_ms > 0


async def test_of_many_sessions_that_ask_to_follow_at_the_same_time_no_more_may(
    shared_daemon: Daemon, raw: Raw
) -> None:
    channels = [await raw(shared_daemon, MAIL) for _ in range(MAX_OF_CLIENT + 4)]
    answers = await asyncio.gather(
        *(channel.control(1, messages.EventsFollow("now")) for channel in channels)
    )
    assert [kind for kind, _ in answers].count(Kind.CONTROL_RESULT) == MAX_OF_CLIENT


async def test_a_follower_whose_client_is_removed_is_closed_and_sent_nothing_more(
    open_daemon: Callable[..., Daemon], raw: Raw
) -> None:
    daemon = await asyncio.to_thread(open_daemon)
    channel = await raw(daemon, AUDITOR)
    await channel.control(1, messages.EventsFollow("now"))
    await asyncio.to_thread(daemon.ask, messages.ClientRemove(AUDITOR))
    await asyncio.to_thread(append, daemon, "secret", readers=Readers(frozenset({Role.AUDITOR})))
    await eventually(channel.closed.is_set)
    assert pushed(channel) == []
