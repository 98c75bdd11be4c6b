"""A node whose key is behind an agent: it follows the chain that is certified elsewhere, and never asks for one itself."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from hsmd.client import keyref
from hsmd.errors import HsmdError, NotFound
from hsmd.node import documents
from hsmd.node.config import NodeConfig
from hsmd.node.keys import AgentKeys
from hsmd.node.passes import Node, Wish
from hsmd.node.programs import KEY
from hsmd.node.tls_keys import public_half
from hsmd.protocol.messages import CertificateExport, KeyShow, NodeCertificate, PemDocument
from tests.support.node_authority import NodeAuthority


@dataclass
class Shown:
    """What an agent tells of a key."""

    name: str
    public_key: bytes
    digest: str


class FakeAgent:
    """An agent with one key, which an authority certifies."""

    def __init__(self, authority: NodeAuthority) -> None:
        self._authority = authority
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.fault: HsmdError | None = None
        self.digest = ""
        self.certify()

    def certify(self, authority: NodeAuthority | None = None) -> None:
        by = authority or self._authority
        leaf = by.issue(self.key.public_key())
        self.chain = "".join(each.public_bytes(Encoding.PEM).decode() for each in (leaf, by.root()))

    def control(self, request: Any, *, timeout_s: float) -> Any:
        if self.fault is not None:
            raise self.fault
        if isinstance(request, KeyShow):
            spki = public_half(self.key.public_key())
            return Shown(request.name, spki, self.digest or hashlib.sha256(spki).hexdigest())
        assert isinstance(request, CertificateExport)
        return PemDocument(self.chain)

    def __enter__(self) -> FakeAgent:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def agent(authority: NodeAuthority) -> FakeAgent:
    return FakeAgent(authority)


@pytest.fixture
def node(config: NodeConfig, authority: NodeAuthority, agent: FakeAgent) -> Node:
    keys = AgentKeys(Path("/run/hsmd/agent.sock"), "www", lambda _: agent)  # type: ignore[arg-type,return-value]
    config.state.mkdir()
    return Node(replace(config, keys=keys), now=authority.clock, reload=lambda _: "")


def test_the_chain_of_the_agent_is_followed(
    node: Node, config: NodeConfig, authority: NodeAuthority, agent: FakeAgent
) -> None:
    assert node.make_pass(authority).is_well
    kept = documents.read(config.files)
    assert kept is not None
    assert kept.leaf == authority.issued[0]
    reference = keyref.decode((config.files / "current" / KEY).read_text())
    assert (reference.name, reference.public_key) == ("www", public_half(agent.key.public_key()))
    agent.certify()
    node.make_pass(authority)
    kept = documents.read(config.files)
    assert kept is not None
    assert kept.leaf == authority.issued[1]
    assert not any(isinstance(each, NodeCertificate) for each in authority.asked)


def test_what_the_agent_shows_is_checked_like_what_a_daemon_issues(
    node: Node, config: NodeConfig, authority: NodeAuthority, agent: FakeAgent
) -> None:
    node.make_pass(authority)
    before = documents.read(config.files)
    agent.certify(NodeAuthority(authority.clock, common_name="Evil CA"))
    assert "does not lead to a trust anchor" in node.make_pass(authority).problems[0]
    agent.certify()
    agent.key = ec.generate_private_key(ec.SECP256R1())
    assert "another key" in node.make_pass(authority).problems[0]
    agent.digest = "00"
    assert "does not match its digest" in node.make_pass(authority).problems[0]
    assert documents.read(config.files) == before


def test_without_the_agent_everything_stays(
    node: Node, config: NodeConfig, authority: NodeAuthority, agent: FakeAgent
) -> None:
    node.make_pass(authority)
    before = documents.read(config.files)
    agent.fault = NotFound("there is no key www")
    assert node.make_pass(authority, Wish(renew=True)).problems == ["there is no key www"]
    assert documents.read(config.files) == before
