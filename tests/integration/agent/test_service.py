"""What local users get from an agent: signatures, metadata, refusals, with the daemon reachable or not."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from hsmd.agent import Agent
from hsmd.agent.upstream import PROBE_S
from hsmd.client import Connection
from hsmd.client.keyref import KeyReference, encode
from hsmd.errors import Conflict, DeadlineExceeded, NotFound, PurposeMismatch, Refused, Unavailable
from hsmd.protocol.channel import FrameDecoder
from hsmd.protocol.frames import Kind, encode_hello, encode_key_operation
from hsmd.protocol.messages import (
    REQUESTS,
    CertificateExport,
    Identity,
    KeyInfo,
    KeyList,
    KeyPage,
    KeyReplacement,
    KeyShow,
    PemDocument,
    Status,
    UpstreamDaemon,
    WhoAmI,
)
from tests.support.agent_site import SCHEME, AgentSite
from tests.support.fake_daemon import FakeDaemon
from tests.support.polling import eventually
from tests.support.requests import minimal

NOW = datetime(2026, 11, 30, tzinfo=UTC)
Talk = Callable[[int, Path, bytes], Awaitable[bytes]]
OTHER_USER = 54321 if os.geteuid() == 0 else os.geteuid()


async def test_a_signature_through_the_agent(agent_site: AgentSite) -> None:
    await agent_site.start()
    signature = await agent_site.sign(b"message")
    public = agent_site.key.private.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(signature, b"message", ec.ECDSA(hashes.SHA256()))
    operation = agent_site.daemon.operations[0]
    assert (operation.purpose, operation.scheme, operation.key, operation.data) == (
        8,
        SCHEME,
        agent_site.key.digest,
        b"message",
    )
    assert 1900 <= operation.deadline_ms <= 2000


async def test_hello_and_request_in_one_write(agent_site: AgentSite) -> None:
    await agent_site.start()
    peer = await agent_site.peer(hello=False)
    peer.send(encode_hello(0) + encode_key_operation(7, 500, 8, SCHEME, agent_site.key.digest, b"data"))
    assert (await peer.frame())[0] == Kind.WELCOME
    assert (await peer.frame())[:2] == (Kind.RESULT, 7)
    await peer.close()


async def test_many_operations_on_one_connection(agent_site: AgentSite) -> None:
    agent_site.daemon.faults.answer = lambda operation: b"signed " + operation.data
    await agent_site.start()
    async with Connection(agent_site.endpoint) as connection:
        texts = [b"%d" % number for number in range(60)]
        asked = [connection.use_key(agent_site.key.digest, 8, SCHEME, text, timeout_s=2) for text in texts]
        assert await asyncio.gather(*asked) == [b"signed " + text for text in texts]


async def test_the_daemon_s_errors_pass_through(agent_site: AgentSite) -> None:
    await agent_site.start()
    agent_site.daemon.faults.refuse = PurposeMismatch("64 spaces are missing")
    with pytest.raises(PurposeMismatch, match="64 spaces"):
        await agent_site.sign()


# --- policy ---


def operation(key: bytes) -> bytes:
    return encode_hello(0) + encode_key_operation(1, 1000, 8, SCHEME, key, b"data")


async def test_users_may_use_the_keys_of_the_policy(agent_site: AgentSite, as_user: Talk) -> None:
    other_key = agent_site.daemon.add_key("other")
    agent_site.users = "[]"
    agent_site.extra = f'[keys.www]\nusers = ["{OTHER_USER}"]\n[keys.other]\nusers = ["{OTHER_USER + 1}"]\n'
    await agent_site.start()
    answers = {
        key.name: FrameDecoder(65_536).feed(
            await as_user(OTHER_USER, agent_site.socket, operation(key.digest))
        )
        for key in (agent_site.key, other_key)
    }
    assert [kind for kind, _, _ in answers["www"]] == [Kind.WELCOME, Kind.RESULT]
    assert [kind for kind, _, _ in answers["other"]] == [Kind.WELCOME, Kind.ERROR]
    assert [asked.key for asked in agent_site.daemon.operations] == [agent_site.key.digest]


async def test_root_has_no_keys_unless_listed(agent_site: AgentSite, as_user: Talk) -> None:
    agent_site.users = f'["{os.geteuid() + 1}"]'
    await agent_site.start()
    received = FrameDecoder(65_536).feed(
        await as_user(os.geteuid(), agent_site.socket, operation(agent_site.key.digest))
    )
    assert [kind for kind, _, _ in received] == [Kind.WELCOME, Kind.ERROR]


async def test_a_key_that_may_not_be_used_looks_like_one_that_does_not_exist(
    agent_site: AgentSite, as_user: Talk
) -> None:
    agent_site.users = f'["{OTHER_USER + 1}"]'
    await agent_site.start()
    refused = await as_user(OTHER_USER, agent_site.socket, operation(agent_site.key.digest))
    unknown = await as_user(OTHER_USER, agent_site.socket, operation(b"u" * 32))
    assert refused == unknown
    assert (
        f"agent.toml does not allow user {OTHER_USER} to use this key, or the daemon does not grant".encode()
        in refused
    )
    assert b"www" not in refused
    assert agent_site.daemon.operations == []


async def test_metadata_is_for_users_of_the_key_and_for_administrators(
    agent_site: AgentSite, as_user: Talk
) -> None:
    from hsmd.protocol.frames import encode_control_request
    from hsmd.protocol.messages import encode_request

    agent_site.users = f'["{OTHER_USER + 1}"]'
    await agent_site.start()
    assert isinstance(await agent_site.control(KeyShow(name="www")), KeyInfo)
    if os.geteuid() != OTHER_USER:
        asked = encode_hello(1) + encode_control_request(1, 1000, encode_request(KeyShow(name="www")))
        received = FrameDecoder(1 << 20).feed(await as_user(OTHER_USER, agent_site.socket, asked))
        assert [kind for kind, _, _ in received] == [Kind.WELCOME, Kind.ERROR]


async def test_a_new_grant_is_found_after_a_refusal(agent_site: AgentSite) -> None:
    await agent_site.start()
    fresh = agent_site.daemon.add_key("fresh")
    with pytest.raises(Refused):
        await agent_site.sign(key=fresh.digest)
    agent = agent_site.agent
    assert agent is not None
    await eventually(lambda: agent._cache.get("fresh") is not None)
    assert await agent_site.sign(key=fresh.digest)


@pytest.mark.parametrize("asked", [True, False], ids=["asked for the name", "compared"])
async def test_a_key_is_used_on_when_another_one_has_taken_over_its_name(
    agent_site: AgentSite, asked: bool
) -> None:
    """Servers that run use the old digest, by the rule for the name that the key had, until they have the new one."""
    agent_site.users = "[]"
    agent_site.extra = f'[keys.www]\nusers = ["{os.geteuid()}"]'
    await agent_site.start()
    assert await agent_site.sign()
    old = agent_site.daemon.keys[agent_site.key.digest]
    old.name = "www.replaced-2026-11-30"
    new = agent_site.daemon.add_key("www")
    for each in (old, new):
        each.replacement = KeyReplacement(old.name, new.name, NOW, NOW)
    agent = agent_site.agent
    assert agent is not None
    if asked:
        shown = await agent_site.control(KeyShow(name="www"))
        assert shown.digest == new.digest.hex()
    else:
        await agent._service.refresh()
    assert await agent_site.sign(key=old.digest)
    assert await agent_site.sign(key=new.digest)


# --- the daemon is unavailable ---


async def test_requests_fail_at_once_without_the_daemon_and_succeed_soon_after_its_return(
    agent_site: AgentSite,
) -> None:
    await agent_site.start()
    await agent_site.daemon.stop()
    agent = agent_site.agent
    assert agent is not None
    await eventually(lambda: agent._upstream.available is None)
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await agent_site.sign(timeout_s=30)
    assert time.monotonic() - began < 0.2
    await agent_site.daemon.start()
    await eventually(lambda: agent._upstream.available is not None, within_s=2.0)
    assert await agent_site.sign()


async def test_requests_fail_at_once_when_the_daemon_stops_answering(agent_site: AgentSite) -> None:
    await agent_site.start()
    agent_site.daemon.faults.silent = True
    agent = agent_site.agent
    assert agent is not None
    unanswered = asyncio.create_task(agent_site.sign(timeout_s=0.5))
    await eventually(lambda: agent._upstream.available is None, within_s=0.8)
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await agent_site.sign(timeout_s=30)
    assert time.monotonic() - began < 0.2
    with pytest.raises(DeadlineExceeded):
        await unanswered


async def test_the_first_request_after_a_silence_moves_to_another_daemon_in_time(
    agent_site: AgentSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first daemon has vanished without a word while the agent was idle."""
    monkeypatch.setattr("hsmd.client.channel.IDLE_AFTER_S", 0.1)
    second = await second_daemon(agent_site)
    agent = await agent_site.start()
    await all_asked(agent)
    await agent_site.sign()
    await eventually(lambda: agent._upstream._connections[0]._channel._idle)  # type: ignore[union-attr]
    agent_site.daemon.faults.silent = True
    assert await agent_site.sign(timeout_s=0.5)
    assert len(second.operations) == 1
    left_ms = second.operations[0].deadline_ms
    assert left_ms <= 400, "the first one had its time"


async def test_a_request_after_a_silence_stays_with_a_daemon_that_answers_the_ping(
    agent_site: AgentSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hsmd.client.channel.IDLE_AFTER_S", 0.1)
    second = await second_daemon(agent_site)
    agent = await agent_site.start()
    await all_asked(agent)
    await eventually(lambda: agent._upstream._connections[0]._channel._idle)  # type: ignore[union-attr]
    agent_site.daemon.faults.hold = True  # it answers pings, and takes its time for the signature
    asked = asyncio.create_task(agent_site.sign(timeout_s=5))
    await eventually(lambda: agent_site.daemon.operations)
    await asyncio.sleep(3 * PROBE_S)  # nothing may happen in this time
    agent_site.daemon.release()
    assert await asked
    assert second.operations == []


async def test_requests_in_flight_fail_at_once_when_the_connection_is_lost(agent_site: AgentSite) -> None:
    await agent_site.start()
    agent_site.daemon.faults.hold = True
    asked = asyncio.create_task(agent_site.sign(timeout_s=30))
    await eventually(lambda: agent_site.daemon.operations)
    agent_site.daemon.drop()
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await asked
    assert time.monotonic() - began < 0.5


async def test_the_deadline_holds_if_the_daemon_delays_its_answer(agent_site: AgentSite) -> None:
    await agent_site.start()
    agent_site.daemon.faults.hold = True
    peer = await agent_site.peer()
    peer.use(1, agent_site.key.digest, deadline_ms=100)
    began = time.monotonic()
    kind, _, body = await peer.frame()
    assert kind == Kind.ERROR
    assert int.from_bytes(body[:2], "big") == DeadlineExceeded.code
    assert 0.09 < time.monotonic() - began < 0.3
    await peer.close()
    await eventually(lambda: len(agent_site.daemon.cancelled) == 1)


async def test_metadata_is_served_without_the_daemon(agent_site: AgentSite) -> None:
    """The cache of an earlier run has what `hsmd agent export` and `hsmd agent check` need."""
    agent_site.key.chain = "-----BEGIN CERTIFICATE-----"
    await agent_site.start()
    await agent_site.control(KeyShow(name="www"))
    await agent_site.stop()
    await agent_site.daemon.stop()
    await agent_site.start(connected=False)
    info = await agent_site.control(KeyShow(name="www"))
    assert isinstance(info, KeyInfo)
    assert "HSMD KEY REFERENCE" in encode(KeyReference(info.name, info.public_key))
    page = await agent_site.control(KeyList())
    assert isinstance(page, KeyPage)
    assert [key.name for key in page.keys] == ["www"]
    with pytest.raises(Unavailable):
        await agent_site.sign()
    with pytest.raises(Refused):
        await agent_site.control(KeyShow(name="unknown"))
    await agent_site.daemon.start()
    await agent_site.connected()
    assert await agent_site.sign()


async def test_the_first_start_without_a_daemon_reports_that_no_keys_are_known(agent_site: AgentSite) -> None:
    await agent_site.daemon.stop()
    await agent_site.start(connected=False)
    with pytest.raises(Unavailable):
        await agent_site.control(KeyShow(name="www"))
    with pytest.raises(Unavailable, match="list of keys is not known"):
        await agent_site.sign()
    await agent_site.daemon.start()
    await agent_site.connected()
    assert isinstance(await agent_site.control(KeyShow(name="www")), KeyInfo)


async def test_clients_with_short_connections_survive_a_restart_of_the_agent(agent_site: AgentSite) -> None:
    await agent_site.start()
    assert await agent_site.sign()
    await agent_site.stop()
    with pytest.raises(Unavailable):
        await agent_site.sign()
    await agent_site.start()
    assert await agent_site.sign()


# --- metadata ---


async def test_certificates_are_updated_from_the_daemon(
    agent_site: AgentSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    await agent_site.start()
    with pytest.raises(NotFound, match="no certificate"):
        await agent_site.control(CertificateExport(key="www"))
    agent_site.key.chain = "-----BEGIN CERTIFICATE-----"
    answer = await agent_site.control(CertificateExport(key="www"))
    assert isinstance(answer, PemDocument)
    assert answer.pem == agent_site.key.chain
    await agent_site.daemon.stop()
    answer = await agent_site.control(CertificateExport(key="www"))
    assert isinstance(answer, PemDocument)
    assert answer.pem == agent_site.key.chain


async def test_a_removed_grant_is_removed_from_the_cache(agent_site: AgentSite) -> None:
    await agent_site.start()
    agent_site.daemon.keys.clear()
    with pytest.raises(Refused):
        await agent_site.control(KeyShow(name="www"))
    await agent_site.daemon.stop()
    with pytest.raises(Refused):
        await agent_site.control(KeyShow(name="www"))


async def test_who_am_i(agent_site: AgentSite) -> None:
    await agent_site.start()
    identity = await agent_site.control(WhoAmI())
    address = f"127.0.0.1:{agent_site.daemon.port}"
    assert identity == Identity(
        "web-1", "agent", f"uid:{os.geteuid()}", address, daemons=[UpstreamDaemon(address, True)]
    )
    await agent_site.daemon.stop()
    agent = agent_site.agent
    assert agent is not None
    await eventually(lambda: agent._upstream.available is None)
    identity = await agent_site.control(WhoAmI())
    assert isinstance(identity, Identity)
    assert identity.daemon == ""
    assert identity.daemons == [UpstreamDaemon(address, False)]


async def test_other_requests_are_refused_and_not_forwarded(agent_site: AgentSite) -> None:
    await agent_site.start()
    with pytest.raises(Refused):
        await agent_site.control(Status())
    assert not [request for request in agent_site.daemon.requests if isinstance(request, Status)]


async def test_an_agent_answers_the_requests_that_say_so_and_no_others(agent_site: AgentSite) -> None:
    agent_site.key.chain = "-----BEGIN CERTIFICATE-----"
    await agent_site.start()
    for request_type in REQUESTS:
        request = minimal(request_type)
        if not request.agents:
            with pytest.raises(Refused):
                await agent_site.control(request)
            continue
        if request.subject.key:
            setattr(request, request.subject.key, "www")
        assert isinstance(await agent_site.control(request), request.Result), request


async def test_other_requests_leave_no_lines_in_the_log(
    agent_site: AgentSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each user who may connect can make them as fast as the agent answers, and would fill the disk."""
    events: list[str] = []
    note = SimpleNamespace(warning=lambda event, **fields: events.append(event))
    monkeypatch.setattr("hsmd.system.control_requests.log", note)
    await agent_site.start()
    with pytest.raises(Refused):
        await agent_site.control(Status())
    assert events == []


async def test_pages_of_keys(agent_site: AgentSite) -> None:
    for number in range(5):
        agent_site.daemon.add_key(f"key-{number}")
    await agent_site.start()
    page = await agent_site.control(KeyList(after="key-1", limit=2))
    assert isinstance(page, KeyPage)
    assert ([key.name for key in page.keys], page.more) == (["key-2", "key-3"], True)
    page = await agent_site.control(KeyList(after="key-3", limit=2))
    assert isinstance(page, KeyPage)
    assert ([key.name for key in page.keys], page.more) == (["key-4", "www"], False)


# --- several daemons, one socket ---


async def second_daemon(agent_site: AgentSite) -> FakeDaemon:
    second = FakeDaemon(agent_site.root)
    second.keys[agent_site.key.digest] = agent_site.key
    await second.start()
    agent_site.more_daemons.append(second)
    return second


async def all_asked(agent: Agent) -> None:
    """Wait until all daemons are connected, and the first is preferred: that is once it has been asked for its health."""
    upstream = agent._upstream
    await eventually(
        lambda: all(each.available and each not in upstream._new for each in upstream._connections)
    )


async def test_the_first_available_daemon_serves(agent_site: AgentSite) -> None:
    second = await second_daemon(agent_site)
    agent = await agent_site.start()
    await all_asked(agent)
    await agent_site.sign()
    assert (len(agent_site.daemon.operations), len(second.operations)) == (1, 0)
    await agent_site.daemon.stop()
    await eventually(lambda: not agent._upstream._connections[0].available)
    await agent_site.sign()
    assert len(second.operations) == 1
    await agent_site.daemon.start()
    await all_asked(agent)
    await agent_site.sign()
    assert len(agent_site.daemon.operations) == 2


async def test_a_request_in_flight_moves_to_the_other_daemon(agent_site: AgentSite) -> None:
    second = await second_daemon(agent_site)
    agent = await agent_site.start()
    await all_asked(agent)
    agent_site.daemon.faults.hold = True
    asked = asyncio.create_task(agent_site.sign())
    await eventually(lambda: agent_site.daemon.operations)
    agent_site.daemon.drop()
    assert await asked
    assert second.operations[0].deadline_ms <= agent_site.daemon.operations[0].deadline_ms


async def test_a_second_agent_is_refused_and_the_first_keeps_running(agent_site: AgentSite) -> None:
    await agent_site.start()
    with pytest.raises(Conflict, match="an agent is running"):
        await Agent(agent_site.config).run()
    assert await agent_site.sign()
