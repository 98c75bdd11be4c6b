"""A real daemon whose audit log, with its tree files, is replaced by an older copy: agent and commands refuse it."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hsmd.agent import Agent
from hsmd.client import AgentEndpoint, Client
from hsmd.client.witness import LogRefused, Witness
from hsmd.errors import AuditFailure, Unavailable
from hsmd.protocol import messages
from hsmd.purposes import Purpose
from tests.support.daemon import OPERATOR, WEB, Daemon, run_aside, running_daemon
from tests.support.polling import eventually, wait_until
from tests.support.tls_bytes import TLS13

START_S = 30.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    """A stopped daemon; its first run made a key and a checkpoint."""
    built = running_daemon(tmp_path / "daemon", addresses=[f"127.0.0.1:{free_port()}"], checkpoint_s=1)
    running = await asyncio.to_thread(built.__enter__)
    try:
        await asyncio.to_thread(running.add_key, "www")
        await asyncio.to_thread(wait_until, lambda: running.status().audit_covered)
        await asyncio.to_thread(running.stop)
        yield running
    finally:
        await asyncio.to_thread(built.__exit__, None, None, None)


def agent_of(daemon: Daemon, root: Path) -> Agent:
    root.mkdir(exist_ok=True)
    config = root / "agent.toml"
    config.write_text(f"""
[agent]
socket = "{root}/agent.sock"
state = "{root}/state"
client = "{WEB}"
identity = "{daemon.directory / WEB}"
[[daemon]]
address = "{daemon.addresses[0]}"
host_keys = ["{daemon.notice["host_key"]}"]
[defaults]
users = ["*"]
""")
    return Agent(config)


async def sign(agent: Path, key: bytes) -> bytes:
    client = Client.connect(AgentEndpoint(agent))
    return await asyncio.to_thread(client.use_key, key, Purpose.TLS13_SERVER, 0x0403, TLS13, timeout_s=5)


def use_once(daemon: Daemon, key: bytes) -> None:
    """One operation over a connection that does not check the log."""

    async def use() -> None:
        async with daemon.connection(WEB) as connection:
            await connection.use_key(key, Purpose.TLS13_SERVER, 0x0403, TLS13, timeout_s=5)

    run_aside(use)


async def test_a_rolled_back_log_is_refused_by_agents_that_saw_more(daemon: Daemon, tmp_path: Path) -> None:
    older = tmp_path / "older"
    shutil.copytree(daemon.audit_path.parent, older)  # the log and its tree files
    operator = Witness(tmp_path / "operator")

    def command() -> None:
        endpoint = daemon.endpoint(OPERATOR)
        with Client.connect(endpoint, examine=lambda ask: operator.examine(endpoint.address, ask)) as client:
            client.control(messages.WhoAmI())

    await asyncio.to_thread(daemon.start)
    key = bytes.fromhex(daemon.ask(messages.KeyShow("www")).digest)
    agent = agent_of(daemon, tmp_path / "agent")
    ready = asyncio.Event()
    life = asyncio.create_task(agent.run(ready.set))
    try:
        await eventually(lambda: agent._upstream.available and agent._cache.names(), START_S)
        seen_at_first = agent._witness.memories.all()[0].size
        assert await sign(tmp_path / "agent" / "agent.sock", key)
        await asyncio.to_thread(daemon.stop)  # makes the last checkpoint
        await asyncio.to_thread(daemon.start)
        await eventually(lambda: agent._witness.memories.all()[0].size > seen_at_first, START_S)
        await asyncio.to_thread(command)

        await asyncio.to_thread(daemon.stop)
        shutil.rmtree(daemon.audit_path.parent)
        shutil.copytree(older, daemon.audit_path.parent)
        await asyncio.to_thread(daemon.start)
        await eventually(lambda: agent._upstream.problems, START_S)
        assert "; it had " in agent._upstream.problems[0]
        with pytest.raises(Unavailable):
            await sign(tmp_path / "agent" / "agent.sock", key)
        with pytest.raises(LogRefused, match="it had"):
            await asyncio.to_thread(command)

        status = await asyncio.to_thread(daemon.status)
        assert "it had" in status.audit_warning
        with pytest.raises(AuditFailure):  # the daemon also knows of the newer log, from its store
            await asyncio.to_thread(use_once, daemon, key)
        await asyncio.to_thread(daemon.declare_discontinuity, "restored")
        await asyncio.to_thread(use_once, daemon, key)
        agent._witness.memories.forget("hsmd/test")  # as `hsmd agent witness reset` does
        await eventually(lambda: agent._upstream.available, START_S)
        assert await sign(tmp_path / "agent" / "agent.sock", key)
    finally:
        agent.stop()
        await life
