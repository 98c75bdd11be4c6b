"""Enrolment by an unauthenticated peer: a token works once, tries are limited, nothing else is reachable, and all refusals are alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import asyncssh
import pytest
from asyncssh.packet import Boolean, String

from hsmd.client import Connection, Endpoint
from hsmd.client.enrolment import enrol
from hsmd.errors import HsmdError, ProtocolError, RefusedHere, Unavailable
from hsmd.protocol import messages
from hsmd.protocol.enrolment import SUBSYSTEM as ENROLMENT, USER, EnrolmentQuestion, EnrolmentToken, encode
from hsmd.system.ssh_profile import SUBSYSTEM
from tests.support.daemon import OPERATOR, WEB, Daemon, public_line, run_aside
from tests.support.polling import wait_until
from tests.support.ssh_peer import MSG_USERAUTH_FAILURE, MSG_USERAUTH_SUCCESS, SshPeer, ssh

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from tests.support.daemon import running_daemon

    with running_daemon(tmp_path_factory.mktemp("enrolment") / "daemon") as built:
        built.add_key("site", grant_to=())
        yield built


def ticket(daemon: Daemon, name: str, **more: Any) -> EnrolmentToken:
    return EnrolmentToken.parse(daemon.ask(messages.ClientEnroll(name, **more)).token)


def fresh() -> Any:
    return asyncssh.generate_private_key("ssh-ed25519")


async def send(daemon: Daemon, *tries: tuple[str, str]) -> list[int]:
    """Send each (user, password) on one connection; return the replies in order."""
    peer = await SshPeer.connect(daemon)
    try:
        replies = []
        for user, password in tries:
            peer.send(user, "password", Boolean(False), String(password))
            replies.append(await peer.reply())
        return replies
    finally:
        peer.close()


async def test_a_token_creates_a_client_with_its_grants(daemon: Daemon, tmp_path: Any) -> None:
    token = ticket(daemon, "new-1", grants=[messages.WantedGrant("site", ["tls-server"])])
    key = fresh()
    answer = await enrol(token, public_line(key))
    assert (answer.client, answer.role) == ("new-1", "front-end")
    assert answer.host_keys == [daemon.notice["host_key"]]
    assert answer.operator_keys == [public_line(daemon.keys[OPERATOR])]
    path = tmp_path / "key"
    path.touch(mode=0o600)
    key.write_private_key(path)
    endpoint = Endpoint(*daemon.address, tuple(answer.host_keys), answer.client, path)
    async with Connection(endpoint) as connection:
        identity = await connection.control(messages.WhoAmI(), timeout_s=5)
        assert identity.client == "new-1"
        assert [each.name for each in (await connection.control(messages.KeyList(), timeout_s=5)).keys] == [
            "site"
        ]
    events = [record["event"] for record in daemon.audit() if record["event"].startswith("enrolment.")]
    assert events[-2:] == ["enrolment.begun", "enrolment.done"]
    written = daemon.audit_path.read_text() + daemon.log_path.read_text()
    assert token.secret.hex() not in written
    assert token.text() not in written


def test_revoked_operator_keys_are_not_vouched_for(daemon: Daemon) -> None:
    """With a stolen key, an attacker could declare a rolled-back log to be in order to every new agent."""
    stolen = fresh()
    daemon.ask(messages.ClientAdd("careless", "operator", public_line(stolen)))
    daemon.ask(messages.ClientRevoke(fingerprint=stolen.get_fingerprint()))
    token = ticket(daemon, "new-after-theft")
    answer = run_aside(lambda: enrol(token, public_line(fresh())))
    assert answer.operator_keys == [public_line(daemon.keys[OPERATOR])]
    daemon.ask(messages.ClientRemove("careless"))


async def test_a_token_works_once_even_for_two_concurrent_clients(daemon: Daemon) -> None:
    token = ticket(daemon, "new-2")
    keys = [fresh(), fresh()]
    outcomes = await asyncio.gather(*(enrol(token, public_line(key)) for key in keys), return_exceptions=True)
    assert sorted(type(each).__name__ for each in outcomes) == ["EnrolmentAnswer", "RefusedHere"]
    with pytest.raises(RefusedHere):
        await enrol(token, public_line(fresh()))
    clients = {client.name: client for client in daemon.ask(messages.ClientList()).clients}
    assert len(clients["new-2"].fingerprints) == 1


async def test_wrong_used_and_unknown_tokens_get_the_same_answer(daemon: Daemon) -> None:
    used, open_ = ticket(daemon, "new-3"), ticket(daemon, "new-4")
    await enrol(used, public_line(fresh()))
    unknown = EnrolmentToken(b"\0" * 8, open_.secret, open_.pin, False, open_.address)
    wrong = EnrolmentToken(open_.id, b"\0" * 16, open_.pin, False, open_.address)
    times: dict[str, float] = {}
    before = len(daemon.logged("connection.refused"))
    for name, password in {
        "used": used.password,
        "unknown": unknown.password,
        "wrong": wrong.password,
        "nonsense": "x",
        "empty": "",
    }.items():
        began = time.monotonic()
        assert await send(daemon, (USER, password)) == [MSG_USERAUTH_FAILURE], name
        times[name] = time.monotonic() - began
    assert min(times.values()) >= 0.25, times
    await asyncio.to_thread(wait_until, lambda: len(daemon.logged("connection.refused")) >= before + 5)
    assert {line["reason"] for line in daemon.logged("connection.refused")[before:]} == {"no such enrolment"}


async def test_the_number_of_tries_is_limited(daemon: Daemon) -> None:
    token = ticket(daemon, "new-5")
    wrong = EnrolmentToken(token.id, b"\0" * 16, token.pin, False, token.address)
    replies = await send(daemon, *[(USER, wrong.password)] * 5)
    assert set(replies) <= {MSG_USERAUTH_FAILURE, 0}
    while replies.count(MSG_USERAUTH_FAILURE) < 5:
        replies += await send(daemon, (USER, wrong.password))
    with pytest.raises(RefusedHere):
        await enrol(token, public_line(fresh()))


@pytest.mark.parametrize("user", [WEB, OPERATOR, "new-6", "ENROLL", ""])
async def test_a_token_works_only_for_the_user_enroll(daemon: Daemon, user: str) -> None:
    token = ticket(daemon, "new-6")
    assert (await send(daemon, (user, token.password)))[0] in (MSG_USERAUTH_FAILURE, 0)
    peer = await SshPeer.connect(daemon)
    # A valid token together with the name of another client.
    peer.send(USER, "password", Boolean(False), String(token.password))
    peer.query(OPERATOR, daemon.keys[OPERATOR])
    peer.sign(OPERATOR, fresh())
    replies = [await peer.reply() for _ in range(2)]
    if MSG_USERAUTH_SUCCESS in replies:
        assert await peer.whoami() is None
    peer.close()


@pytest.mark.parametrize("asked", [{"subsystem": SUBSYSTEM}, {"subsystem": "sftp"}, {"command": "id"}, {}])
async def test_an_enrolment_connection_permits_nothing_else(daemon: Daemon, asked: dict[str, str]) -> None:
    token = ticket(daemon, "new-7")
    options = {"password": token.password, "client_keys": None, "preferred_auth": "password"}
    async with await ssh(daemon, USER, daemon.keys[WEB], **options) as connection:
        with pytest.raises((asyncssh.ChannelOpenError, asyncssh.ConnectionLost)):
            await connection.create_session(asyncssh.SSHClientSession, encoding=None, **asked)
        with pytest.raises((asyncssh.ChannelOpenError, asyncssh.ConnectionLost)):
            await connection.open_session(subsystem=ENROLMENT, encoding=None)
        with pytest.raises((asyncssh.ChannelOpenError, asyncssh.ConnectionLost)):
            await connection.open_connection("127.0.0.1", 22)
    async with await ssh(daemon, USER, daemon.keys[WEB], **options) as connection:
        writer, reader, _ = await connection.open_session(subsystem=ENROLMENT, encoding=None)
        writer.write(b'{"public_key":"ssh-rsa AAAA","role":"operator"}\n')
        assert b'"error":"' in await reader.read()


async def test_a_client_that_sends_eof_is_answered(daemon: Daemon) -> None:
    token = ticket(daemon, "new-eof")
    options = {"password": token.password, "client_keys": None, "preferred_auth": "password"}
    async with await ssh(daemon, USER, daemon.keys[WEB], **options) as connection:
        writer, reader, _ = await connection.open_session(subsystem=ENROLMENT, encoding=None)
        writer.write(encode(EnrolmentQuestion(public_line(fresh()))))
        writer.write_eof()
        assert b'"client":"new-eof"' in await reader.read()


async def test_an_idle_enrolment_connection_is_closed(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = ticket(daemon, "new-8")
    began = time.monotonic()
    options = {"password": token.password, "client_keys": None, "preferred_auth": "password"}
    connection = await ssh(daemon, USER, daemon.keys[WEB], **options)
    async with asyncio.timeout(14):
        await connection.wait_closed()
    assert time.monotonic() - began < 13


async def test_a_key_of_another_client_is_refused_and_the_token_stays_valid(daemon: Daemon) -> None:
    token = ticket(daemon, "new-9")
    with pytest.raises(RefusedHere, match="cannot be registered") as refused:
        await enrol(token, public_line(daemon.keys[WEB]))
    assert WEB not in str(refused.value), "it does not tell whose key it is"
    assert (await enrol(token, public_line(fresh()))).client == "new-9"


def test_only_operators_create_tokens_and_no_client_is_called_enroll(daemon: Daemon) -> None:
    for request, client in (
        (messages.ClientEnroll("x"), WEB),
        (messages.ClientEnroll(USER), OPERATOR),
        (messages.ClientAdd(USER), OPERATOR),
        (messages.ClientRename(WEB, USER), OPERATOR),
        (messages.ClientEnroll(WEB, role="operator"), OPERATOR),
    ):
        with pytest.raises(HsmdError):
            daemon.ask(request, client)


def test_an_invalid_grant_creates_neither_client_nor_grant(daemon: Daemon) -> None:
    wanted = [
        messages.WantedGrant("site", ["tls-server"]),
        messages.WantedGrant("no-such-key", ["tls-server"]),
    ]
    with pytest.raises(HsmdError):
        ticket(daemon, "half-made", grants=wanted)
    assert "half-made" not in [client.name for client in daemon.ask(messages.ClientList()).clients]


def is_foreign(token: EnrolmentToken) -> bool:
    """Whether an enrolment fails because of the daemon's key; False if the daemon's reset overtook its offer of keys."""
    with pytest.raises((ProtocolError, Unavailable)) as failure:
        run_aside(lambda: enrol(token, public_line(fresh())))
    return isinstance(failure.value, ProtocolError)


def test_the_daemon_must_match_the_token(daemon: Daemon) -> None:
    token = ticket(daemon, "new-10")
    for pins_ca, pin in ((False, b"\0" * 32), (True, token.pin)):
        elsewhere = EnrolmentToken(token.id, token.secret, pin, pins_ca, token.address)
        wait_until(lambda e=elsewhere: is_foreign(e), "the client reads the daemon's offer", 20)  # type: ignore[misc]
    assert run_aside(lambda: enrol(token, public_line(fresh()))).client == "new-10"


def test_enrolment_requests_are_bounded(open_daemon: Callable[..., Daemon]) -> None:
    daemon = open_daemon()
    token = ticket(daemon, "new-11")

    async def flood() -> bytes:
        options = {"password": token.password, "client_keys": None, "preferred_auth": "password"}
        async with await ssh(daemon, USER, daemon.keys[WEB], **options) as connection:
            writer, reader, _ = await connection.open_session(subsystem=ENROLMENT, encoding=None)
            try:
                for _ in range(64):
                    writer.write(b"x" * 16_384)
                    await writer.drain()
                writer.write(encode(EnrolmentQuestion(public_line(fresh()))))
                return await reader.read()
            except (asyncssh.Error, OSError):
                return b""

    assert run_aside(flood) == b""
