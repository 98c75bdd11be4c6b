"""Many keys at an agent: fetched in pages, chains only if they have changed; beyond the most that it keeps, it says so."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from hsmd.agent import fetch, service
from hsmd.agent.policy import Rules
from hsmd.cli.agent import check_agent
from hsmd.protocol.messages import (
    CertificateChains,
    CertificateExport,
    ChainPage,
    Identity,
    KeyList,
    KeyPage,
    KeyShow,
    WhoAmI,
)
from tests.support.agent_site import AgentSite
from tests.support.cli import Run
from tests.support.polling import eventually


def add(agent_site: AgentSite, *names: str, marked: bool = True) -> None:
    for name in names:
        agent_site.daemon.add_key(
            name, ec.generate_private_key(ec.SECP256R1()), chain=f"chain of {name}\n", marked=marked
        )


def asked(agent_site: AgentSite, kind: type) -> list[object]:
    return [request for request in agent_site.daemon.requests if isinstance(request, kind)]


async def refreshed(agent_site: AgentSite) -> None:
    """One more comparison with the daemon."""
    agent = agent_site.agent
    assert agent is not None
    agent_site.daemon.requests.clear()
    assert await agent._service.refresh()


async def test_chains_are_fetched_together_and_only_when_they_have_changed(agent_site: AgentSite) -> None:
    add(agent_site, "a", "b", "c")
    agent = await agent_site.start()
    assert [request.keys for request in asked(agent_site, CertificateChains)] == [["a", "b", "c"]]
    assert not asked(agent_site, CertificateExport)
    assert [agent._cache.get(name).chain for name in "abc"] == [f"chain of {name}\n" for name in "abc"]
    await refreshed(agent_site)
    assert not asked(agent_site, CertificateChains)
    (b,) = (key for key in agent_site.daemon.keys.values() if key.name == "b")
    b.chain = "renewed\n"
    await refreshed(agent_site)
    assert [request.keys for request in asked(agent_site, CertificateChains)] == [["b"]]
    assert agent._cache.get("b").chain == "renewed\n"
    b.chain = ""
    await refreshed(agent_site)
    assert agent._cache.get("b").chain == ""


async def test_the_keys_that_a_user_may_see_are_found_once_until_they_change(
    agent_site: AgentSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a user that may see none of many keys makes the agent go through all of them with each request for a page."""
    add(agent_site, "a", "b", "c", "d")
    agent_site.extra = "".join(f"[keys.{name}]\nusers = ['12345']\n" for name in "ac")
    agent_site.users = "[]"
    agent = await agent_site.start()
    looked_at: list[str] = []
    allow = Rules.allow
    monkeypatch.setattr(
        Rules, "allow", lambda rules, uid, name: (looked_at.append(name), allow(rules, uid, name))[1]
    )

    async def listed(uid: int, after: str = "") -> list[str]:
        page = await agent._service.control(uid, KeyList(after=after, limit=1))
        assert isinstance(page, KeyPage)
        return [key.name for key in page.keys] + ["..."] * page.more

    assert (await listed(12345), await listed(12345, "a"), await listed(54321)) == (["a", "..."], ["c"], [])
    looked_at.clear()
    assert (await listed(12345), await listed(12345, "b"), await listed(54321)) == (["a", "..."], ["c"], [])
    assert not looked_at
    agent_site.daemon.keys = {
        digest: key for digest, key in agent_site.daemon.keys.items() if key.name != "a"
    }
    await refreshed(agent_site)
    assert await listed(12345) == ["c"]


async def test_what_an_earlier_run_stored_is_not_fetched_again(agent_site: AgentSite) -> None:
    add(agent_site, "a", "b")
    await agent_site.start()
    await agent_site.stop()
    agent_site.daemon.requests.clear()
    agent = await agent_site.start()
    await eventually(lambda: asked(agent_site, KeyList))
    await refreshed(agent_site)
    assert not asked(agent_site, CertificateChains)
    assert agent._cache.get("a").chain == "chain of a\n"


async def test_a_daemon_of_an_earlier_version_is_asked_for_each_chain(agent_site: AgentSite) -> None:
    add(agent_site, "a", "b", marked=False)
    agent = await agent_site.start()
    assert not asked(agent_site, CertificateChains)
    assert sorted(request.key for request in asked(agent_site, CertificateExport)) == ["a", "b"]
    assert agent._cache.get("a").chain == "chain of a\n"
    (a,) = (key for key in agent_site.daemon.keys.values() if key.name == "a")
    a.chain = "renewed\n"
    await refreshed(agent_site)
    assert agent._cache.get("a").chain == "renewed\n", "it has no mark: it is fetched again each time"


async def test_keys_beyond_the_most_that_an_agent_keeps_are_told(
    agent_site: AgentSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "MAX_KEYS", 2)
    add(agent_site, "a", "b")
    agent_site.configure()
    agent = await agent_site.start(connected=False)
    await eventually(lambda: agent._cache.complete)
    assert agent._cache.names() == ["a", "b"]
    identity = await agent_site.control(WhoAmI())
    assert isinstance(identity, Identity)
    assert identity.warnings == [service._CUT.format("web-1")]
    found, _ = await asyncio.to_thread(check_agent._daemon, agent_site.socket)
    assert any("the others cannot be used" in str(finding) for finding in found), "`hsmd agent check` says so"
    del agent_site.daemon.keys[
        next(digest for digest, key in agent_site.daemon.keys.items() if key.name == "a")
    ]
    await refreshed(agent_site)
    identity = await agent_site.control(WhoAmI())
    assert isinstance(identity, Identity)
    assert (agent._cache.names(), identity.warnings) == (["b", "www"], [])


async def test_users_get_the_chains_of_their_keys_in_pages(agent_site: AgentSite) -> None:
    add(agent_site, "a", "b")
    agent_site.users = "[]"
    agent_site.extra = '[keys.a]\nusers = ["*"]\n[keys.www]\nusers = ["*"]\n'
    agent = await agent_site.start()
    agent._service._may_see = lambda uid, name: name in ("a", "www")  # type: ignore[method-assign]
    page = await agent_site.control(CertificateChains(keys=["b", "www", "a", "none"]))
    assert isinstance(page, ChainPage)
    assert ([chain.key for chain in page.chains], page.answered) == (["a"], 4)
    listed = await agent_site.control(KeyList(limit=1))
    assert isinstance(listed, KeyPage)
    assert ([key.name for key in listed.keys], listed.more) == (["a"], True)
    listed = await agent_site.control(KeyList(after="a", limit=1))
    assert isinstance(listed, KeyPage)
    assert ([key.name for key in listed.keys], listed.more) == (["www"], False)


async def test_users_that_ask_for_the_same_key_share_one_request(agent_site: AgentSite) -> None:
    agent = await agent_site.start()
    agent_site.daemon.requests.clear()
    await asyncio.gather(*(agent._service.control(0, KeyShow(name="www")) for _ in range(20)))
    assert len(asked(agent_site, KeyShow)) == 1


def self_signed(agent_site: AgentSite, name: str) -> str:
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(subject, subject, private.public_key(), 1, now, now + timedelta(days=9))
    chain = builder.sign(private, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
    agent_site.daemon.add_key(name, private, chain=chain)
    return chain


async def test_all_keys_are_exported_or_those_of_a_pattern(agent_site: AgentSite, run: Run) -> None:
    chains = {name: self_signed(agent_site, name) for name in ("site-1", "site-2", "mail")}
    await agent_site.start()
    out, socket = agent_site.root / "keys", str(agent_site.socket)
    common = ("--out", str(out), "--socket", socket)
    ran = await asyncio.to_thread(run, "agent", "export", "site-*", *common)
    assert ran.code == 0, ran.err
    assert sorted(path.name for path in out.iterdir()) == [
        "site-1.key",
        "site-1.pem",
        "site-2.key",
        "site-2.pem",
    ]
    ran = await asyncio.to_thread(run, "agent", "export", "--all", *common, "--json")
    assert [key["key"] for key in json.loads(ran.out)["keys"]] == ["mail", "site-1", "site-2", "www"]
    for name, chain in chains.items():
        assert (out / f"{name}.pem").read_text() == chain
    assert not (out / "www.pem").exists(), "it has no certificate"
    ran = await asyncio.to_thread(run, "agent", "export", "--all", *common)
    assert "4 keys exported" in ran.out
    assert "No certificate is stored for 1 key: www" in ran.err
    for wrong in ((), ("www", "--all")):
        assert (await asyncio.to_thread(run, "agent", "export", *wrong, *common)).code == 2
    ran = await asyncio.to_thread(run, "agent", "export", "none-*", *common)
    assert (ran.code, "no key matches 'none-*'" in ran.err) == (1, True)


async def test_files_that_are_as_they_should_be_are_not_written_again(
    agent_site: AgentSite, run: Run
) -> None:
    self_signed(agent_site, "site-1")
    await agent_site.start()
    out = agent_site.root / "keys"
    common = ("--all", "--out", str(out), "--socket", str(agent_site.socket))
    await asyncio.to_thread(run, "agent", "export", *common)
    before = {path.name: path.stat().st_ino for path in out.iterdir()}
    (out / "site-1.pem").write_text("damaged")
    await asyncio.to_thread(run, "agent", "export", *common)
    after = {path.name: path.stat().st_ino for path in out.iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"site-1.pem"}
