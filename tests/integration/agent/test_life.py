"""The agent process: start, reload without interruption, drain; and signals."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import hsmd
from hsmd.agent import agent as agents
from hsmd.errors import ConfigurationError, ErrorCode, Refused, Unavailable
from hsmd.protocol.frames import Kind, decode_error
from hsmd.protocol.messages import WhoAmI
from tests.support.agent_site import AgentSite
from tests.support.fake_daemon import FakeDaemon
from tests.support.polling import eventually


@pytest.fixture
def echo(agent_site: AgentSite) -> AgentSite:
    agent_site.daemon.faults.answer = lambda operation: b"signed " + operation.data
    return agent_site


# --- drain ---


async def test_drain_answers_open_requests_and_refuses_new_ones(echo: AgentSite) -> None:
    await echo.start()
    echo.daemon.faults.hold = True
    peer = await echo.peer()
    peer.use(1, echo.key.digest)
    await eventually(lambda: echo.daemon.operations)
    stopping = asyncio.create_task(echo.stop())
    assert (await peer.frame())[0] == Kind.DRAIN
    peer.use(2, echo.key.digest)
    frame = await peer.frame()
    assert (frame[:2], decode_error(frame[2]).code) == ((Kind.ERROR, 2), ErrorCode.DRAINING)
    with pytest.raises(Unavailable):
        await echo.sign()
    echo.daemon.release()
    assert await peer.frame() == (Kind.RESULT, 1, b"signed data")
    await stopping
    assert await peer.ended() == []
    await peer.close()
    assert not echo.socket.exists()


async def test_drain_ends_even_if_an_answer_never_comes(
    echo: AgentSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "DRAIN_S", 0.2)
    await echo.start()
    echo.daemon.faults.hold = True
    peer = await echo.peer()
    peer.use(1, echo.key.digest, deadline_ms=60_000)
    await eventually(lambda: echo.daemon.operations)
    async with asyncio.timeout(2):
        await echo.stop()
    await peer.close()


async def test_idle_agent_stops_at_once(echo: AgentSite) -> None:
    await echo.start()
    async with asyncio.timeout(1):
        await echo.stop()
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


# --- reload ---


async def test_reload_changes_the_policy(echo: AgentSite) -> None:
    agent = await echo.start()
    assert await echo.sign()
    echo.users = f'["{os.geteuid() + 1}"]'
    echo.configure()
    await agent.reload()
    with pytest.raises(Refused):
        await echo.sign()


@pytest.mark.parametrize("typo", ["[agent", "", "[agent]\nclient = 1\n", "colour = 'red'\n"])
async def test_a_typo_changes_nothing(echo: AgentSite, typo: str) -> None:
    agent = await echo.start()
    echo.config.write_text(typo)
    await agent.reload()
    assert await echo.sign() == b"signed data"
    assert echo.daemon.logins == 1


async def test_a_missing_file_changes_nothing(echo: AgentSite) -> None:
    agent = await echo.start()
    echo.config.unlink()
    await agent.reload()
    assert await echo.sign() == b"signed data"


async def test_reload_to_another_daemon_keeps_open_requests(
    echo: AgentSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "DRAIN_S", 0.5)
    agent = await echo.start()
    first = echo.daemon
    first.faults.hold = True
    asked = asyncio.create_task(echo.sign(b"old"))
    await eventually(lambda: first.operations)
    second = FakeDaemon(echo.root)
    second.keys, second.faults.answer = first.keys, lambda operation: b"second " + operation.data
    await second.start()
    echo.daemon = second
    echo.configure()
    await agent.reload()
    await eventually(lambda: agent._upstream.available is not None)
    assert await echo.sign(b"new") == b"second new"
    first.release()
    assert await asked == b"signed old"
    await eventually(lambda: not first.connections)
    await echo.stop()
    await second.stop()


async def test_reload_with_the_same_daemon_keeps_the_connection(echo: AgentSite) -> None:
    agent = await echo.start()
    await agent.reload()
    assert await echo.sign()
    assert echo.daemon.logins == 1


async def test_reload_changes_mode_and_path_of_the_socket(echo: AgentSite) -> None:
    agent = await echo.start()
    old = echo.socket
    text = echo.config.read_text()
    echo.config.write_text(text.replace('mode = "0666"', 'mode = "0600"'))
    await agent.reload()
    assert stat.S_IMODE(old.stat().st_mode) == 0o600
    assert await echo.sign()
    echo.config.write_text(text.replace("run/agent.sock", "run/new.sock"))
    await agent.reload()
    assert not old.exists()
    with pytest.raises(Unavailable):
        await echo.sign()
    old.symlink_to("new.sock")
    assert await echo.sign()


async def test_reload_to_an_unsafe_socket_path_changes_nothing(echo: AgentSite) -> None:
    agent = await echo.start()
    (echo.root / "open").mkdir()
    (echo.root / "open").chmod(0o777)
    echo.users = f'["{os.geteuid() + 1}"]'
    echo.configure()
    echo.config.write_text(echo.config.read_text().replace("run/agent.sock", "open/agent.sock"))
    await agent.reload()
    assert await echo.sign()


# --- start ---


async def test_wrong_configuration_stops_the_start(echo: AgentSite) -> None:
    echo.users = '["no-such-user-here"]'
    with pytest.raises(ConfigurationError, match="no-such-user-here"):
        await echo.start()


async def test_unusable_identity_is_a_problem_that_can_be_fixed_while_running(echo: AgentSite) -> None:
    echo.daemon.identity.chmod(0o644)
    agent = await echo.start(connected=False)
    connection = agent._upstream._connections[0]
    await eventually(lambda: connection.problem is not None)
    assert "chmod 600" in str(connection.problem)
    echo.daemon.identity.chmod(0o600)
    await echo.connected()
    assert await echo.sign()


async def test_an_agent_waits_for_a_daemon_only_so_long(echo: AgentSite) -> None:
    agent = await echo.start(connected=False)
    await agent.connected(10)
    assert agent._upstream.available is not None
    await echo.stop()
    echo.daemon.identity.chmod(0o644)
    alone = await echo.start(connected=False)
    await alone.connected(0.05)
    assert alone._upstream.available is None


# --- the process ---


async def test_the_process_handles_its_signals(echo: AgentSite) -> None:
    """READY once it serves and a daemon is there, SIGHUP with a typo and with a change, SIGTERM; no secret in its log."""
    notes = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notes.bind(str(echo.root / "notify"))
    notes.setblocking(False)
    echo.configure()
    environment = os.environ | {
        "NOTIFY_SOCKET": str(echo.root / "notify"),
        "PYTHONPATH": str(Path(hsmd.__file__).parent.parent),
    }
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import sys, pathlib, hsmd.agent; sys.exit(hsmd.agent.main(pathlib.Path({str(echo.config)!r})))",
        ],
        env=environment,
        stderr=subprocess.PIPE,
    )
    try:
        await notification(notes, "READY=1")
        assert echo.daemon.sessions
        await eventually_signs(echo)
        good = echo.config.read_text()
        echo.config.write_text("[agent")
        process.send_signal(signal.SIGHUP)
        assert (await notification(notes, "RELOADING=1")).startswith("RELOADING=1\nMONOTONIC_USEC=")
        await notification(notes, "READY=1")
        assert await echo.sign() == b"signed data"
        echo.config.write_text(good.replace('["*"]', "[]"))
        process.send_signal(signal.SIGHUP)
        await notification(notes, "READY=1")
        with pytest.raises(Refused):
            await echo.sign()
        assert (await asyncio.to_thread(os.path.exists, echo.socket)) is True
        process.send_signal(signal.SIGTERM)
        await notification(notes, "STOPPING=1")
        _, errors = await asyncio.to_thread(process.communicate, None, 10)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
        notes.close()
    assert process.returncode == 0
    events = [json.loads(line) for line in errors.splitlines()]
    names = [event["event"] for event in events]
    assert [name for name in names if name.startswith("agent.")] == [
        "agent.ready", "agent.reload_refused", "agent.reloaded", "agent.stopped",
    ]  # fmt: skip
    assert not [event for event in events if "dropped" in event]
    private = echo.daemon.identity.read_text().splitlines()[1:-1]
    assert not [line for line in private if line.encode() in errors]


async def notification(notes: socket.socket, wanted: str) -> str:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(10):
        while True:
            note = (await loop.sock_recv(notes, 4096)).decode()
            if note.startswith(wanted):
                return note


async def eventually_signs(agent_site: AgentSite) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                assert await agent_site.sign() == b"signed data"
                return
            except (Refused, Unavailable):
                await asyncio.sleep(0.01)


async def test_who_am_i_needs_no_daemon(echo: AgentSite) -> None:
    await echo.daemon.stop()
    await echo.start(connected=False)
    assert (await echo.control(WhoAmI())).client == "web-1"  # type: ignore[attr-defined]
