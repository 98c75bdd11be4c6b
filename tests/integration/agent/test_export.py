"""`hsmd agent export` at a running agent: names that do not exist, and directories of one's own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from hsmd.cli import run
from hsmd.deployment import servers
from tests.support.agent_site import AgentSite
from tests.support.polling import eventually


async def export(site: AgentSite, *words: str) -> int:
    return await asyncio.to_thread(run, ["agent", "export", *words, "--config", str(site.config)])


async def started(agent_site: AgentSite, *names: str) -> None:
    for name in names:
        agent_site.daemon.add_key(name, ec.generate_private_key(ec.SECP256R1()))
    agent = await agent_site.start()
    await eventually(lambda: set(names) <= set(agent._cache.names()))


@pytest.mark.parametrize(
    ("wanted", "step"),
    [("shopp", "did you mean shop?"), ("example", "did you mean www.example.org?"), ("zzz", "you may use: ")],
)
async def test_an_unknown_name_is_answered_with_names_that_this_host_has(
    agent_site: AgentSite, capsys: pytest.CaptureFixture[str], wanted: str, step: str
) -> None:
    await started(agent_site, "shop", "www.example.org")
    assert await export(agent_site, wanted) == 1
    said = capsys.readouterr().err
    assert f"there is no key {wanted!r} that web-1 may use here - {step}" in said
    assert "hsmd status" not in said and "key list" not in said


async def test_a_directory_of_ones_own_is_renewed_too(agent_site: AgentSite, tmp_path: Path) -> None:
    await started(agent_site, "shop")
    other, default = tmp_path / "tls", agent_site.config.parent / "keys"
    for _ in range(2):
        assert await export(agent_site, "shop", "--out", str(other)) == 0
    assert await export(agent_site, "shop") == 0
    found, faults = servers.load(agent_site.config.parent / "servers.d", default)
    assert [(server.directories, server.unit, server.keys) for server in found] == [
        ((other,), "", frozenset())
    ]
    assert faults == []
