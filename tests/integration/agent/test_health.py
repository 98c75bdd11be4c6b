"""The health of an agent: what it tells of itself follows its daemons, and requests go to a daemon that can use keys."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hsmd.errors import AuditFailure, HsmdError
from hsmd.protocol.frames import encode_control_request, encode_hello
from hsmd.protocol.messages import Finding, Health, HealthRead
from tests.support.agent_site import AgentSite
from tests.support.fake_daemon import FakeDaemon
from tests.support.polling import eventually

OTHER_USER = 54321 if os.geteuid() == 0 else os.geteuid()
FULL = Health("failing", [Finding("disk-full", "failing")])


async def health(site: AgentSite) -> Health:
    found = await site.control(HealthRead())
    assert isinstance(found, Health)
    return found


async def get(site: AgentSite, path: str) -> tuple[int, str]:
    """Status and body of an answer of the agent's endpoint."""
    assert site.agent is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", site.agent._metrics.port)
    writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
    async with asyncio.timeout(5):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split(b" ")[1]), body.decode()


async def with_second(site: AgentSite) -> FakeDaemon:
    second = FakeDaemon(site.root)
    second.keys = site.daemon.keys
    await second.start()
    site.more_daemons.append(second)
    return second


async def until(site: AgentSite, good: Callable[[Health], bool]) -> Health:
    async with asyncio.timeout(10):
        while not good(found := await health(site)):
            await asyncio.sleep(0.05)
    return found


def conditions(found: Health) -> list[tuple[str, str]]:
    return [(each.condition, each.severity) for each in found.findings]


async def test_all_numbers_and_probes_of_an_agent(agent_site: AgentSite) -> None:
    agent_site.settings = ""
    agent_site.extra = '[metrics]\naddress = "127.0.0.1:0"'
    await agent_site.start()
    await agent_site.sign()
    with pytest.raises(HsmdError):
        await agent_site.sign(key=b"\xee" * 32)
    found = await health(agent_site)
    assert (found.level, found.client, found.keys) == ("well", "web-1", 1)
    assert [(link.address, link.state) for link in found.daemons] == [
        (f"127.0.0.1:{agent_site.daemon.port}", "in-use")
    ]
    assert await get(agent_site, "/readyz") == (200, '{"level": "well", "findings": []}\n')
    assert (await get(agent_site, "/healthz"))[0] == 200
    status, text = await get(agent_site, "/metrics")
    assert status == 200
    numbers = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert numbers["hsmd_agent_operations_total", "performed"] == 1
    assert numbers["hsmd_agent_operations_total", "refused"] == 1
    assert numbers["hsmd_agent_daemon_connected", found.daemons[0].address] == 1
    assert numbers["hsmd_agent_keys",] == 1
    assert numbers["hsmd_agent_health", "well"] == 1
    assert 0 <= numbers["hsmd_agent_compared_seconds",] < 60
    assert agent_site.key.name not in text


async def test_without_a_daemon_the_agent_is_not_ready(agent_site: AgentSite) -> None:
    agent_site.extra = '[metrics]\naddress = "127.0.0.1:0"'
    await agent_site.start()
    await agent_site.daemon.stop()
    found = await until(agent_site, lambda found: found.level != "well")
    assert conditions(found) == [("no-daemon", "failing")]
    status, body = await get(agent_site, "/readyz")
    assert status == 503
    assert json.loads(body)["findings"] == [{"condition": "no-daemon", "severity": "failing", "subject": ""}]
    assert (await get(agent_site, "/healthz"))[0] == 200


async def test_a_daemon_that_reports_faults_is_used_only_if_there_is_no_other(agent_site: AgentSite) -> None:
    first, second = agent_site.daemon, await with_second(agent_site)
    first.health = second.health = Health("well")
    await agent_site.start()
    await until(agent_site, lambda found: [each.level for each in found.daemons] == ["well", "well"])
    await agent_site.sign()
    assert (len(first.operations), len(second.operations)) == (1, 0)

    first.health, first.faults.refuse = FULL, AuditFailure()
    with pytest.raises(AuditFailure):
        await agent_site.sign()
    found = await until(agent_site, lambda found: found.daemons[0].level == "failing")
    assert conditions(found) == [("daemon-failing", "degraded")]
    assert [each.state for each in found.daemons] == ["connected", "in-use"]
    await agent_site.sign()
    assert len(second.operations) == 1

    second.health = FULL
    found = await until(agent_site, lambda found: found.daemons[1].level == "failing")
    assert conditions(found) == [("daemon-failing", "failing")] * 2
    assert found.daemons[0].state == "in-use"

    first.health, first.faults.refuse = Health("well"), None
    await until(agent_site, lambda found: found.daemons[0].level == "well")
    await agent_site.sign()


async def test_a_daemon_that_is_back_is_used_when_it_has_told_its_health(agent_site: AgentSite) -> None:
    """After a restart its workers are not logged in yet, and what is sent there waits in vain."""
    first, second = agent_site.daemon, await with_second(agent_site)
    first.health = second.health = Health("well")
    await agent_site.start()
    await until(agent_site, lambda found: [each.level for each in found.daemons] == ["well", "well"])
    assert agent_site.agent is not None
    told = agent_site.agent._upstream.health
    may_ask, ask = asyncio.Event(), told.ask

    async def late() -> None:
        await may_ask.wait()
        await ask()

    told.ask = late  # type: ignore[method-assign]
    first.drop()
    upstream = agent_site.agent._upstream
    await eventually(lambda: not upstream.connections[0].available)
    await eventually(lambda: upstream.connections[0].available)
    await agent_site.sign()
    assert (len(first.operations), len(second.operations)) == (0, 1)

    may_ask.set()
    await eventually(lambda: upstream.available is upstream.connections[0])
    await agent_site.sign()
    assert len(first.operations) == 1


async def test_a_daemon_of_an_earlier_release_counts_as_well(agent_site: AgentSite) -> None:
    await agent_site.start()
    assert (await health(agent_site)).level == "well"
    await agent_site.sign()


async def test_one_of_two_daemons_away_is_reported(agent_site: AgentSite) -> None:
    second = await with_second(agent_site)
    await agent_site.start()
    await until(agent_site, lambda found: found.level == "well")
    await second.stop()
    found = await until(agent_site, lambda found: found.level != "well")
    assert conditions(found) == [("daemon-away", "degraded")]
    assert found.findings[0].subject == found.daemons[1].address


async def test_names_of_keys_are_shown_only_to_users_that_may_see_them_all(
    agent_site: AgentSite, as_user: Any
) -> None:
    agent_site.extra = '[keys.secret-name]\nusers = ["*"]'
    await agent_site.start()
    assert "secret-name" in (await health(agent_site)).findings[0].text
    request = encode_hello(1) + encode_control_request(2, 1_000, b'{"op":"health.read"}')
    shown = await as_user(OTHER_USER, agent_site.socket, request)
    assert b"key-not-granted" in shown
    assert (b"secret-name" in shown) is (os.geteuid() == OTHER_USER)


async def test_the_command_shows_it_and_ends_with_its_code(agent_site: AgentSite) -> None:
    async def status(*options: str) -> tuple[int, str]:
        line = [
            sys.executable,
            "-m",
            "hsmd.cli",
            "agent",
            "status",
            "--socket",
            str(agent_site.socket),
            *options,
        ]
        done = await asyncio.create_subprocess_exec(*line, stdout=asyncio.subprocess.PIPE)
        out, _ = await done.communicate()
        return done.returncode or 0, out.decode()

    await agent_site.start()
    address = f"127.0.0.1:{agent_site.daemon.port}"
    code, text = await status()
    assert (code, text.splitlines()[0]) == (0, "Handshakes work.")
    assert [address, "in-use", "-", "-"] in [line.split() for line in text.splitlines()]
    await agent_site.daemon.stop()
    await until(agent_site, lambda found: found.level == "failing")
    code, text = await status()
    assert (code, text.splitlines()[0]) == (4, "HANDSHAKES FAIL:")
    assert f"{address} cannot be reached" in text
    code, text = await status("--json")
    assert (code, json.loads(text)["level"]) == (4, "failing")
    await agent_site.stop()
    assert (await status())[0] == 3
