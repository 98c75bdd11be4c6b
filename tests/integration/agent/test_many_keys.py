"""Many keys at an agent: fetched in pages, chains only if they have changed; beyond the most that it keeps, it says so."""

from __future__ import annotations

import asyncio

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from hsmd.agent import fetch, service
from hsmd.protocol.messages import (
    CertificateChains,
    CertificateExport,
    ChainPage,
    Identity,
    KeyList,
    KeyPage,
    WhoAmI,
)
from tests.support.agent_site import AgentSite
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
    from hsmd.protocol.messages import KeyShow

    agent = await agent_site.start()
    agent_site.daemon.requests.clear()
    await asyncio.gather(*(agent._service.control(0, KeyShow(name="www")) for _ in range(20)))
    assert len(asked(agent_site, KeyShow)) == 1
