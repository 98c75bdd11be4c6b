"""A running daemon of the release before and a new one on one PostgreSQL store, which the new one has upgraded under it.

The earlier daemon knows one role per client. What it does not know must give nothing there, and must not stop it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.polling import wait_until
from tests.support.postgresql import Cluster
from tests.support.takeover import agent_socket
from tests.support.takeover.releases import (
    ANY_PORT,
    EXPECTED,
    VECTORS,
    Daemon,
    Operator,
    Release,
    agent_running,
    install_wheel,
    operator,
    serving,
    unpack,
    use_granted,
)

POSTGRESQL = EXPECTED["postgresql"]
GRANTED = {"www", "shop", "edge", "legacy", "documents", "imported", "postgresql-key"}
NAME = {'name = "takeover-throw-away"': 'name = "second"'}
"""No two daemons of a fleet have the same name."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """The earlier daemon, which was running before the new one started, and an agent that is connected to it."""

    earlier: Daemon
    directory: Path
    at_earlier: Operator
    at_new: Operator
    agent: Path


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, new: Release, cluster: Cluster) -> Iterator[Fleet]:
    """Each daemon has its own copy of the token, and the new one a log of its own, which its operator has not seen."""
    url = {"postgresql-url": cluster.load("two_releases", VECTORS / "postgresql.sql")}
    first, second = (tmp_path_factory.mktemp(name) for name in ("earlier", "later"))
    old = install_wheel(first)
    directory = unpack("daemon-postgresql", first, ANY_PORT | url)
    later = unpack("daemon-postgresql", second, ANY_PORT | url | NAME)
    shutil.rmtree(later / "audit")
    with serving(old, directory) as earlier:
        at_earlier = operator(old, first, earlier)
        at_earlier.wait_for_token()
        with agent_running(old, unpack("agent", first, {EXPECTED["address"]: earlier.address})) as agent:
            assert use_granted(agent, POSTGRESQL) == GRANTED
            with serving(new, later) as added:
                at_new = operator(new, second, added)
                shutil.rmtree(at_new.directory / "witness")
                at_new.wait_for_token()
                yield Fleet(earlier, directory, at_earlier, at_new, agent)


def client(shown_by: Operator, name: str) -> dict[str, Any]:
    """A client as `hsmd client list` shows it."""
    clients = shown_by.ask("client", "list", codes=(0,))["clients"]
    found: dict[str, Any] = next(each for each in clients if each["name"] == name)
    return found


def wait_for_role(shown_by: Operator, name: str, role: str) -> None:
    wait_until(lambda: client(shown_by, name)["role"] == role, f"{name} has the role {role}")


def test_a_running_daemon_of_the_release_before_survives_the_migration(fleet: Fleet) -> None:
    """It signs, and carries out control requests that read and change the store."""
    assert client(fleet.at_new, "operator")["roles"] == ["operator"]  # the store was upgraded
    assert "roles" not in client(fleet.at_earlier, "operator")  # and this daemon is of the release before
    assert use_granted(fleet.agent, POSTGRESQL) == GRANTED
    fleet.at_earlier.ask("grant", "add", "never-enrolled", "shop", codes=(0,))
    fleet.at_earlier.ask("grant", "remove", "never-enrolled", "shop", codes=(0,))
    fleet.at_earlier.ask("client", "add", "for-a-moment", codes=(0,))
    fleet.at_earlier.ask("client", "remove", "for-a-moment", codes=(0,))
    assert fleet.earlier.process.poll() is None


@pytest.mark.parametrize(
    ("roles", "there"),
    [
        (["owner"], "front-end"),
        (["checker", "node", "depositary"], "front-end"),
        (["operator", "owner"], "operator"),
        (["auditor", "front-end"], "auditor"),
    ],
)
def test_the_earlier_daemon_shows_a_role_that_it_knows(fleet: Fleet, roles: list[str], there: str) -> None:
    name = "-".join(roles)
    options = [part for role in roles for part in ("--role", role)]
    assert fleet.at_new.ask("client", "add", name, *options, codes=(0,))["roles"] == roles
    assert client(fleet.at_earlier, name)["role"] == there
    explained = fleet.at_earlier.ask("grant", "explain", name, "www", "tls13-server")
    assert explained["allowed"] is False


def test_a_client_with_a_new_role_is_there_a_front_end_without_grants(
    fleet: Fleet, old: Release, tmp_path: Path
) -> None:
    """The auditor becomes an owner: what it read there before is refused to it now."""
    auditor = operator(old, tmp_path, fleet.earlier, "auditor.toml")
    assert auditor.run("client", "list").returncode == 0
    fleet.at_new.ask("client", "role", "add", "auditor", "owner", codes=(0,))
    assert auditor.run("client", "list").returncode == 0
    fleet.at_new.ask("client", "role", "remove", "auditor", "auditor", codes=(0,))
    wait_for_role(fleet.at_earlier, "auditor", "front-end")
    wait_until(
        lambda: auditor.ask("status")["identity"]["role"] == "front-end", "the auditor's role has changed"
    )
    assert auditor.ask("key", "list", codes=(0,))["keys"] == []
    for refused in (
        ("client", "list"),
        ("grant", "list"),
        ("key", "show", "www"),
        ("client", "add", "mine"),
        ("grant", "add", "auditor", "www"),
    ):
        assert auditor.run(*refused).returncode == 1, refused


def test_a_front_end_that_lost_the_role_does_not_sign_there(fleet: Fleet) -> None:
    """To the earlier daemon it stays a front end; so its grants must be gone."""
    explain = ("grant", "explain", "web-2", "shop", "tls13-server")
    assert fleet.at_earlier.ask(*explain)["allowed"] is True
    fleet.at_new.ask("client", "role", "add", "web-2", "node", codes=(0,))
    fleet.at_new.ask("client", "role", "remove", "web-2", "front-end", codes=(0,))
    wait_until(lambda: not fleet.at_earlier.ask(*explain)["allowed"], "the grant is gone")
    assert client(fleet.at_earlier, "web-2")["role"] == "front-end"
    assert use_granted(fleet.agent, POSTGRESQL) == GRANTED, "other front ends sign"


def test_the_new_daemon_understands_clients_that_the_earlier_one_adds(fleet: Fleet) -> None:
    for role in ("operator", "auditor", "front-end"):
        fleet.at_earlier.ask("client", "add", f"old-{role}", "--role", role, codes=(0,))
        assert client(fleet.at_new, f"old-{role}")["roles"] == [role]
    fleet.at_earlier.ask("grant", "add", "old-front-end", "www", codes=(0,))
    explain = ("grant", "explain", "old-front-end", "www", "tls13-server")
    wait_until(lambda: fleet.at_new.ask(*explain)["allowed"], "the new daemon has the grant")
    assert fleet.at_new.run("client", "role", "add", "old-operator", "depositary").returncode == 1
    fleet.at_new.ask("client", "role", "add", "old-front-end", "owner", codes=(0,))
    assert client(fleet.at_new, "old-front-end")["roles"] == ["front-end", "owner"]
    assert client(fleet.at_earlier, "old-front-end")["role"] == "front-end"
    fleet.at_earlier.ask("client", "remove", "old-front-end", codes=(0,))
    names = [each["name"] for each in fleet.at_new.ask("client", "list")["clients"]]
    assert "old-front-end" not in names and "old-auditor" in names


def test_the_earlier_daemon_refuses_several_roles_by_name(fleet: Fleet, new: Release, tmp_path: Path) -> None:
    """It adds no client with only some of them."""
    newer = operator(new, tmp_path, fleet.earlier)
    done = newer.run("client", "add", "half", "--role", "operator", "--role", "owner")
    assert done.returncode == 1 and "--role" in done.stderr
    assert newer.run("client", "role", "add", "operator", "owner").returncode == 1
    assert "half" not in [each["name"] for each in newer.ask("client", "list")["clients"]]


def test_the_earlier_daemon_was_not_restarted(fleet: Fleet) -> None:
    """Positive control of the file: it is still the process that was running before the migration, and signs."""
    assert fleet.earlier.process.poll() is None
    www = next(key for key in POSTGRESQL["keys"] if key["name"] == "www")
    assert agent_socket.use_and_check(fleet.agent, agent_socket.Key.of(www))
