"""Twelve nodes beside nginx, HAProxy, Apache, PostgreSQL, Python and curl renew three times under handshakes that never fail.

In the gate the renewals are asked for. `scripts/soak nodes` runs each node as the service that it is, with certificates of a
minute, which renew by themselves.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from hsmd.node import config as configuration, documents, state
from hsmd.node.daemons import Daemons
from hsmd.node.passes import Node, Wish
from hsmd.node.state import NodeState
from hsmd.protocol import messages
from tests.support import node_fleet
from tests.support.daemon import running_daemon
from tests.support.edge_prober import Prober
from tests.support.node_fleet import AUTHORITY, Fleet, FleetNode
from tests.support.polling import wait_until
from tests.support.processes import Process, hsmd, run

SERVERS = {
    "web1": "nginx", "web2": "nginx", "web3": "nginx", "lb1": "haproxy", "lb2": "haproxy", "app1": "apache", "app2": "apache",
    "db": "postgresql", "api": "python",
}  # fmt: skip
CLIENTS = {"job1": "python", "job2": "curl", "job3": "python"}
RENEWALS = 3
BY_THEMSELVES = bool(os.environ.get("HSMD_TEST_NODE_SERVICES"))
TERM_S = 60 if BY_THEMSELVES else 3_600
"""A minute is the shortest term of a certificate."""
WITHIN_S = 60.0
NOTHING = Wish()


@pytest.fixture
def directory() -> Iterator[Path]:
    """Which programs that give root up can enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="hsmd-nodes-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def fleet(directory: Path) -> Iterator[Fleet]:
    with ExitStack() as resources:
        daemon = resources.enter_context(running_daemon(directory / "daemon"))
        made = Fleet(daemon, directory, TERM_S)
        for name, kind in {**SERVERS, **CLIENTS}.items():
            made.add(name, kind if name in SERVERS else "client")
        for node in made.nodes.values():
            made.configure(node, [node] if node.port else made.servers)
        for node in made.servers:
            make_pass(node)
            node_fleet.running(node, resources)
        yield made


def make_pass(node: FleetNode, wish: Wish = NOTHING) -> NodeState:
    config = configuration.load(node.file)
    with state.locked(config.state), Daemons(config.daemons) as daemons:
        return Node(config).make_pass(daemons, wish)


def leaf_of(node: FleetNode) -> str:
    kept = documents.read(node.files)
    assert kept is not None
    return kept.leaf_digest


@pytest.mark.timeout(420)
def test_twelve_nodes_renew_three_times_without_a_failed_handshake(fleet: Fleet) -> None:
    with ThreadPoolExecutor(4) as threads:
        for done in threads.map(make_pass, fleet.nodes.values()):
            assert done.is_well, done.problems
    seen = {name: {leaf_of(node)} for name, node in fleet.nodes.items()}
    with Prober(fleet.edges()) as prober:
        a_round(prober)
        if BY_THEMSELVES:
            renew_by_themselves(fleet, seen)
        else:
            renew_when_asked(fleet, seen, prober)
        a_round(prober)
    assert prober.failed == [], f"{len(prober.failed)} of {prober.handshakes}"
    for node in fleet.servers:
        assert seen[node.name] <= set(prober.shown[node.name]), (
            f"{node.name} has served each of its certificates"
        )
    print(
        f"\n{prober.handshakes} handshakes on {len(prober.edges)} edges while {len(fleet.nodes)} nodes renewed {RENEWALS} times,"
        f" 0 failed; the longest took {prober.late_s * 1e3:.0f} ms"
    )


def a_round(prober: Prober) -> None:
    """Wait until each edge has been tried from now on."""
    end = prober.handshakes + len(prober.edges) + prober.threads
    wait_until(lambda: prober.handshakes >= end, "a round of handshakes", WITHIN_S)


def renew_when_asked(fleet: Fleet, seen: dict[str, set[str]], prober: Prober) -> None:
    for _ in range(RENEWALS):
        with ThreadPoolExecutor(4) as threads:
            passes = threads.map(lambda node: make_pass(node, Wish(renew=True)), fleet.nodes.values())
            for name, done in zip(fleet.nodes, passes, strict=True):
                assert done.is_well, f"{name}: {done.problems}"
                seen[name].add(leaf_of(fleet.nodes[name]))
        a_round(prober)
    assert {len(leaves) for leaves in seen.values()} == {RENEWALS + 1}


def renew_by_themselves(fleet: Fleet, seen: dict[str, set[str]]) -> None:
    with ExitStack() as resources:
        for node in fleet.nodes.values():
            process = Process(hsmd("node", "run", "--config", node.file), node.directory / "node.log")
            resources.callback(process.stop)

        def all_renewed() -> bool:
            for name, node in fleet.nodes.items():
                seen[name].add(leaf_of(node))
            return all(len(leaves) > RENEWALS for leaves in seen.values())

        wait_until(all_renewed, f"{RENEWALS} renewals of each node", TERM_S * (RENEWALS + 1))
        for node in fleet.nodes.values():
            assert state.read(node.directory / "state").is_well, node.name


@pytest.mark.timeout(120)
def test_a_node_is_set_up_checked_renewed_and_revoked_by_its_commands(directory: Path) -> None:
    """As docs/node.md says, with nginx; a revoked certificate is replaced by one for a new key, and the old one refused."""
    with running_daemon(directory / "daemon") as daemon:
        fleet = Fleet(daemon, directory, 3_600)
        node = fleet.add("web1", "nginx")
        fleet.configure(node, [node])
        make_pass(node)
        with ExitStack() as resources:
            node_fleet.running(node, resources)
            made = run(hsmd("node", "check", "--config", node.file))
            assert made.returncode == 0, made.stdout + made.stderr
            first = leaf_of(node)
            assert run(hsmd("node", "renew", "--config", node.file)).returncode == 0
            assert leaf_of(node) != first
            kept = documents.read(node.files)
            assert kept is not None
            daemon.ask(messages.CaRevoke(AUTHORITY, f"{kept.leaf.serial_number:x}", "key-compromise"))
            assert make_pass(node).is_well
            again = documents.read(node.files)
            assert again is not None
            assert again.key != kept.key
            assert (
                again.lists[0].get_revoked_certificate_by_serial_number(kept.leaf.serial_number) is not None
            )
            shown = run(hsmd("node", "status", "--config", node.file))
            assert (shown.returncode, "The node is well." in shown.stdout) == (0, True), shown.stdout
        shown = run(hsmd("node", "check", "--config", node.file))
        assert (shown.returncode, "Connection refused" in shown.stdout) == (4, True), "nginx has ended"
