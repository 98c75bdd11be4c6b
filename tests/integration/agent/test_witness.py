"""An agent as a witness: it stops using a daemon whose audit log is not the one it saw, says so, and goes on when it may."""

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
from hsmd.client import Client
from hsmd.client.witness import LogRefused, Witness
from hsmd.errors import Unavailable
from hsmd.protocol import messages
from hsmd.transparency import discontinuity as discontinuities
from hsmd.transparency.discontinuity import Discontinuity, State
from tests.daemonlike import Daemonlike, eventually
from tests.integration.agent.conftest import House
from tests.log_maker import LogMaker

OPERATOR = Ed25519PrivateKey.from_private_bytes(bytes([3] * 32))
OPERATOR_LINE = OPERATOR.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


@pytest.fixture
def log(house: House) -> LogMaker:
    """The daemon's log, of which the agent has seen 8 records."""
    house.daemon.log = LogMaker()
    house.daemon.log.use(4)
    return house.daemon.log


def backup_of(log: LogMaker) -> LogMaker:
    older = LogMaker()
    older.use(3)
    assert older.lines == log.lines[:6]
    return older


async def roll_back(house: House, log: LogMaker) -> LogMaker:
    """The daemon is stopped, its log is put back, and it starts again."""
    await house.daemon.stop()
    house.daemon.log = backup_of(log)
    await house.daemon.start()
    return house.daemon.log


def problems(house: House) -> list[str]:
    assert house.agent is not None
    return house.agent._upstream.problems


async def test_a_rolled_back_log_makes_a_daemon_unavailable(
    house: House, log: LogMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    await house.start()
    await house.sign()
    await roll_back(house, log)
    await eventually(lambda: problems(house))
    with pytest.raises(Unavailable):
        await house.sign()
    assert "it has 6 records; it had 8" in problems(house)[0]
    identity = await house.control(messages.WhoAmI())
    assert isinstance(identity, messages.Identity)
    assert (identity.daemon, identity.problems) == ("", problems(house))
    found, _ = await asyncio.to_thread(check_agent.check_agent, house.socket, "www", "")
    (finding,) = [one for one in found if one.subject == "audit log"]
    assert not finding.ok and "it has 6 records" in finding.text and "witness reset" in finding.mend


async def test_nothing_is_asked_of_a_daemon_before_its_log_was_looked_at(house: House, log: LogMaker) -> None:
    await house.start()
    await house.stop()
    house.daemon.log = backup_of(log)
    house.daemon.requests.clear()
    await house.start(connected=False)
    await eventually(lambda: problems(house))
    assert house.daemon.requests == [] and house.daemon.operations == []


async def test_another_daemon_serves_meanwhile(house: House, log: LogMaker, tmp_path: Path) -> None:
    other = Daemonlike(house.root)
    other.keys = house.daemon.keys
    house.more_daemons.append(await other.start())
    agent = await house.start()
    await eventually(agent._witness.memories.all)
    await roll_back(house, log)
    await eventually(lambda: problems(house))
    assert await house.sign()
    assert other.operations


async def test_a_change_under_a_living_connection_is_found(
    house: House, log: LogMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "WITNESS_S", 0.05)
    await house.start()
    house.daemon.log = backup_of(log)
    await eventually(lambda: problems(house))
    with pytest.raises(Unavailable):
        await house.sign()
    house.daemon.log = log
    await house.connected()
    assert await house.sign()


async def test_a_declared_restore_is_accepted_where_the_operator_is_pinned(
    house: House, log: LogMaker
) -> None:
    house.settings = f'operator_keys = ["{OPERATOR_LINE}"]'
    await house.start()
    older = await roll_back(house, log)
    await eventually(lambda: problems(house))
    note = Discontinuity(
        "hsmd/east",
        State(8, log.root(8)),
        State(6, older.root(6)),
        older.signer.verifier.vkey,
        "2026-11-21T02:03:04.000000Z",
        "restored",
    )
    house.daemon.discontinuities = [discontinuities.sign(note, OPERATOR).render()]
    await house.connected()
    assert await house.sign()
    identity = await house.control(messages.WhoAmI())
    assert isinstance(identity, messages.Identity)
    assert identity.problems == [] and "reason restored" in identity.notices[0]
    found, _ = await asyncio.to_thread(check_agent.check_agent, house.socket, "www", "")
    (finding,) = [one for one in found if one.subject == "audit log"]
    assert finding.ok and "reason restored" in finding.text


async def test_the_memory_can_be_given_up_by_hand(
    house: House, log: LogMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    await house.start()
    await roll_back(house, log)
    await eventually(lambda: problems(house))
    witness = ["agent", "witness"]
    config = ["--config", str(house.config)]
    assert run([*witness, "list", *config, "--json"]) == 0
    (seen,) = json.loads(capsys.readouterr().out)["logs"]
    assert (seen["origin"], seen["size"]) == ("hsmd/east", 8)
    assert run([*witness, "reset", "hsmd/east", *config]) == 2
    assert "--yes" in capsys.readouterr().err
    assert run([*witness, "reset", "hsmd/west", "--yes", *config]) == 2
    assert run([*witness, "reset", "hsmd/east", "--yes", *config]) == 0
    await house.connected()
    assert await house.sign()


async def test_a_command_is_a_witness_too(house: House, log: LogMaker, tmp_path: Path) -> None:
    """What `hsmd` commands do with each connection."""
    witness = Witness(tmp_path / "witness")
    endpoint = house.daemon.endpoint()

    def command() -> None:
        with Client.connect(endpoint, examine=lambda ask: witness.examine(endpoint.address, ask)) as client:
            client.control(messages.WhoAmI())

    await asyncio.to_thread(command)
    house.daemon.log = backup_of(log)
    house.daemon.requests.clear()
    with pytest.raises(LogRefused, match="it has 6 records; it had 8"):
        await asyncio.to_thread(command)
    assert house.daemon.requests == []
