"""The agent as a witness: it stops using a daemon whose audit log contradicts what it saw, reports it, and resumes later."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmd.agent import agent as agents
from hsmd.cli import run
from hsmd.cli.agent import check_agent
from hsmd.cli.agent.handshake import Actor
from hsmd.client import Client
from hsmd.client.witness import LogRefused, Witness
from hsmd.errors import Unavailable
from hsmd.protocol import messages
from hsmd.transparency import discontinuity as discontinuities
from hsmd.transparency.discontinuity import Discontinuity, State
from tests.support.agent_site import AgentSite
from tests.support.audit_logs import LogMaker
from tests.support.fake_daemon import FakeDaemon
from tests.support.polling import eventually

OPERATOR = Ed25519PrivateKey.from_private_bytes(bytes([3] * 32))
OPERATOR_LINE = OPERATOR.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


@pytest.fixture
def log(agent_site: AgentSite) -> LogMaker:
    """The daemon's log, of which the agent has seen 8 records."""
    agent_site.daemon.log = LogMaker()
    agent_site.daemon.log.use(4)
    return agent_site.daemon.log


def backup_of(log: LogMaker) -> LogMaker:
    older = LogMaker()
    older.use(3)
    assert older.lines == log.lines[:6]
    return older


async def roll_back(agent_site: AgentSite, log: LogMaker) -> LogMaker:
    """Stop the daemon, replace its log by an older copy, and start it again."""
    await agent_site.daemon.stop()
    agent_site.daemon.log = backup_of(log)
    await agent_site.daemon.start()
    return agent_site.daemon.log


def problems(agent_site: AgentSite) -> list[str]:
    assert agent_site.agent is not None
    return agent_site.agent._upstream.problems


async def test_a_rolled_back_log_makes_a_daemon_unavailable(
    agent_site: AgentSite, log: LogMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    await agent_site.start()
    await agent_site.sign()
    await roll_back(agent_site, log)
    await eventually(lambda: problems(agent_site))
    with pytest.raises(Unavailable):
        await agent_site.sign()
    assert "it has 6 records; it had 8" in problems(agent_site)[0]
    identity = await agent_site.control(messages.WhoAmI())
    assert isinstance(identity, messages.Identity)
    assert (identity.daemon, identity.problems) == ("", problems(agent_site))
    found, _ = await asyncio.to_thread(check_agent.check_agent, agent_site.socket, Actor(Path()), ["www"])
    (finding,) = [one for one in found if one.subject == "audit log"]
    assert not finding.ok and "it has 6 records" in finding.text and "witness reset" in finding.fix


async def test_no_request_is_sent_before_the_log_was_examined(agent_site: AgentSite, log: LogMaker) -> None:
    await agent_site.start()
    await agent_site.stop()
    agent_site.daemon.log = backup_of(log)
    agent_site.daemon.requests.clear()
    await agent_site.start(connected=False)
    await eventually(lambda: problems(agent_site))
    assert agent_site.daemon.requests == [] and agent_site.daemon.operations == []


async def test_another_daemon_serves_meanwhile(agent_site: AgentSite, log: LogMaker, tmp_path: Path) -> None:
    other = FakeDaemon(agent_site.root)
    other.keys = agent_site.daemon.keys
    agent_site.more_daemons.append(await other.start())
    agent = await agent_site.start()
    await eventually(lambda: all(connection.available for connection in agent._upstream._connections))
    await eventually(agent._witness.memories.all)
    await roll_back(agent_site, log)
    await eventually(lambda: problems(agent_site))
    assert await agent_site.sign()
    assert other.operations


async def test_a_change_during_a_connection_is_found(
    agent_site: AgentSite, log: LogMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "WITNESS_S", 0.05)
    await agent_site.start()
    agent_site.daemon.log = backup_of(log)
    await eventually(lambda: problems(agent_site))
    with pytest.raises(Unavailable):
        await agent_site.sign()
    agent_site.daemon.log = log
    await agent_site.connected()
    assert await agent_site.sign()


async def test_a_declared_restore_is_accepted_where_the_operator_is_pinned(
    agent_site: AgentSite, log: LogMaker
) -> None:
    agent_site.settings = f'operator_keys = ["{OPERATOR_LINE}"]'
    await agent_site.start()
    older = await roll_back(agent_site, log)
    await eventually(lambda: problems(agent_site))
    note = Discontinuity(
        "hsmd/east",
        State(8, log.root(8)),
        State(6, older.root(6)),
        older.signer.verifier.vkey,
        "2026-11-21T02:03:04.000000Z",
        "restored",
    )
    agent_site.daemon.discontinuities = [discontinuities.sign(note, OPERATOR).render()]
    await agent_site.connected()
    assert await agent_site.sign()
    identity = await agent_site.control(messages.WhoAmI())
    assert isinstance(identity, messages.Identity)
    assert identity.problems == [] and "reason restored" in identity.notices[0]
    found, _ = await asyncio.to_thread(check_agent.check_agent, agent_site.socket, Actor(Path()), ["www"])
    (finding,) = [one for one in found if one.subject == "audit log"]
    assert finding.ok and "reason restored" in finding.text


async def test_the_memory_can_be_reset_by_command(
    agent_site: AgentSite, log: LogMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    await agent_site.start()
    await roll_back(agent_site, log)
    await eventually(lambda: problems(agent_site))
    witness = ["agent", "witness"]
    config = ["--config", str(agent_site.config)]
    assert run([*witness, "list", *config, "--json"]) == 0
    (seen,) = json.loads(capsys.readouterr().out)["logs"]
    assert (seen["origin"], seen["size"]) == ("hsmd/east", 8)
    assert run([*witness, "reset", "hsmd/east", *config]) == 2
    assert "--yes" in capsys.readouterr().err
    assert run([*witness, "reset", "hsmd/west", "--yes", *config]) == 2
    assert run([*witness, "reset", "hsmd/east", "--yes", *config]) == 0
    await agent_site.connected()
    assert await agent_site.sign()


async def test_a_command_is_a_witness_too(agent_site: AgentSite, log: LogMaker, tmp_path: Path) -> None:
    """Examine the log as `hsmd` commands do on each connection."""
    witness = Witness(tmp_path / "witness")
    endpoint = agent_site.daemon.endpoint()

    def command() -> None:
        with Client.connect(endpoint, examine=lambda ask: witness.examine(endpoint.address, ask)) as client:
            client.control(messages.WhoAmI())

    await asyncio.to_thread(command)
    agent_site.daemon.log = backup_of(log)
    agent_site.daemon.requests.clear()
    with pytest.raises(LogRefused, match="it has 6 records; it had 8"):
        await asyncio.to_thread(command)
    assert agent_site.daemon.requests == []
