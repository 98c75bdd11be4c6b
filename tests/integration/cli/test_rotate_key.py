"""`hsmd agent rotate-key` against a real daemon: interrupted after each step, it goes on; one key is left, the new one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from hsmd.cli import agent_rotate, ssh_keys
from hsmd.client import Endpoint
from hsmd.errors import BadRequest, Conflict, HsmdError, Refused, Unavailable
from hsmd.protocol import messages
from tests.daemon_house import OPERATOR, WEB, House, house, public_line

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with house(tmp_path_factory.mktemp("rotate") / "daemon") as built:
        yield built


@pytest.fixture
def agent(daemon: House, tmp_path: Path, request: pytest.FixtureRequest) -> Endpoint:
    """A client with a key of its own."""
    name = f"agent-{abs(hash(request.node.name)) % 10**8}"
    identity = tmp_path / "agent_ed25519"
    key = ssh_keys.make(identity, "first")
    daemon.ask(messages.ClientAdd(name, "front-end", key.line))
    return daemon.endpoint(name, identity_file=identity)


def keys_of(daemon: House, name: str) -> list[str]:
    clients = daemon.ask(messages.ClientList()).clients
    return next(client.fingerprints for client in clients if client.name == name)


def rotate(agent: Endpoint) -> str:
    agent_rotate._rotate((agent,), agent.identity_file, agent.identity_file.with_name("agent_ed25519.next"))
    return ssh_keys.read(ssh_keys.public_file(agent.identity_file)).fingerprint


def test_the_new_key_takes_the_place_of_the_old(daemon: House, agent: Endpoint) -> None:
    before = keys_of(daemon, agent.user)
    after = rotate(agent)
    assert keys_of(daemon, agent.user) == [after] != before
    assert rotate(agent) != after
    assert len(keys_of(daemon, agent.user)) == 1


@pytest.mark.parametrize("step", range(8))
def test_it_goes_on_after_a_crash(
    daemon: House, agent: Endpoint, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request, before and after it is carried out, and each change of a file is a place to crash."""
    left = [step]

    def crashing(inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            left[0] -= 1
            if left[0] == -1:
                raise KeyboardInterrupt
            return inner(*arguments)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(agent_rotate, "_ask", crashing(agent_rotate._ask))
        patched.setattr(agent_rotate.os, "replace", crashing(agent_rotate.os.replace))
        patched.setattr(ssh_keys, "make", crashing(ssh_keys.make))
        if step < 7:
            with pytest.raises(KeyboardInterrupt):
                rotate(agent)
        else:
            rotate(agent)
    agent_rotate._ask(agent, messages.WhoAmI())
    after = rotate(agent)
    assert keys_of(daemon, agent.user) == [after]
    agent_rotate._ask(agent, messages.WhoAmI())


def test_one_further_key_and_only_to_itself(daemon: House) -> None:
    first, second = (public_line(asyncssh.generate_private_key("ssh-ed25519")) for _ in range(2))
    assert daemon.ask(messages.ClientRotateKey(first), WEB).changed
    assert not daemon.ask(messages.ClientRotateKey(first), WEB).changed
    with pytest.raises(Conflict, match="has a next key already"):
        daemon.ask(messages.ClientRotateKey(second), WEB)
    with pytest.raises(HsmdError):
        daemon.ask(messages.ClientRotateKey(public_line(daemon.keys[OPERATOR])), WEB)
    with pytest.raises(BadRequest):
        daemon.ask(messages.ClientRotateKey("nonsense"), WEB)
    assert not daemon.ask(messages.ClientRotateKey(), WEB).changed, "the old key cannot finish it"
    assert len(keys_of(daemon, WEB)) == 2
    assert [record for record in daemon.audit("control.done") if "client.rotate-key" in json.dumps(record)]


def test_it_can_be_forbidden(daemon: House, agent: Endpoint) -> None:
    daemon.write("client_key_rotation = false")
    assert daemon.reload() == "done"
    with pytest.raises((Refused, Unavailable)):
        rotate(agent)
    daemon.write()
    assert daemon.reload() == "done"
