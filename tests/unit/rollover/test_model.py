"""Plans against the model: all interleavings of every topology of up to three nodes, and what breaks without each gate."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from hsmd.rollover.model import PROPERTY_OF, Fleet, Property
from hsmd.rollover.model_extensions import Relayed, WithRestore, WithRevocation
from hsmd.rollover.model_search import search
from hsmd.rollover.plan import Gate, Order, Plan
from hsmd.rollover.planner import plan
from tests.support.rollover import (
    Pair,
    all_topologies,
    is_needed,
    mesh,
    node,
    plans_of,
    relayed,
    star,
    topology,
)

THREE = [topology(edges, "abc") for edges in all_topologies(3)]
SAMPLE = random.Random(11).sample(range(len(THREE)), 12)
"""Topologies for the models with many states."""


def plans() -> Iterator[Plan]:
    """The plans in each order that is safe, for all topologies of three nodes; with fewer edges they have fewer nodes."""
    for shown in THREE:
        yield from plans_of(shown)


def test_every_edge_works_in_every_state_and_the_rollover_comes_to_its_end() -> None:
    states = 0
    for found in plans():
        findings = search(Fleet(found))
        assert findings.fine, (found.order, found.topology.edges, findings)
        states += findings.states
    assert len(THREE) == 138
    assert states > 30_000


@pytest.mark.parametrize(("edges", "states"), [(star(2), 226), (star(3), 1_198), (mesh(4), 766)])
def test_the_model_has_as_many_states_as_another_one_of_the_same(edges: list[Pair], states: int) -> None:
    """The counts are of a search that was written before, independently of this code."""
    assert search(Fleet(plan(topology(edges)))).states == states


@pytest.mark.parametrize("gate", Gate)
def test_without_a_gate_exactly_its_own_property_breaks(gate: Gate) -> None:
    """In each order, where nothing else makes the task wait; the rollover is done all the same, so only the property tells."""
    broke = 0
    for found in plans():
        findings = search(Fleet(found, without=[gate]))
        assert set(findings.broken) == ({PROPERTY_OF[gate]} if is_needed(found, gate) else set()), (
            found.order,
            found.topology.edges,
        )
        assert findings.stuck is None
        broke += bool(findings.broken)
    assert broke > 60


def test_a_counterexample_is_a_shortest_list_of_events() -> None:
    findings = search(Fleet(plan(topology(star(1, mutual=False))), without=[Gate.CLIENTS_ANCHORED]))
    assert findings.broken == {Property.SERVER_IS_VERIFIED: ("send C:server", "deliver C:server")}


def test_without_links_in_chains_bundled_clients_are_not_verified() -> None:
    broke = 0
    for found in plans():
        findings = search(Fleet(found, links=False))
        linked = any(task.link_until for task in found.tasks)
        assert set(findings.broken) == ({Property.LINK_IS_SENT} if linked else set())
        broke += linked
    assert broke > 10


# --- relays ---


def test_every_node_behind_relays_is_reached_in_every_state() -> None:
    for shown in THREE:
        for found in plans_of(relayed(shown)):
            findings = search(Relayed(found))
            assert findings.fine, (found.topology.edges, findings)


def test_a_server_that_changes_too_early_cuts_off_the_clients_behind_it() -> None:
    shown = topology(star(1, mutual=False), nodes={"client1": node("client1", "server")})
    findings = search(Relayed(plan(shown), without=[Gate.CLIENTS_ANCHORED]))
    assert findings.stuck is not None and "acknowledge C:server" in findings.stuck
    assert search(Relayed(plan(shown))).fine


# --- revocation lists ---


def test_nodes_that_demand_revocation_lists_have_them_in_time() -> None:
    for found in plans():
        findings = search(WithRevocation(found))
        assert findings.fine, (found.topology.edges, findings)


def test_an_anchor_that_is_acknowledged_before_its_list_is_too_early() -> None:
    findings = search(WithRevocation(plan(topology(star(1))), hasty=True))
    assert set(findings.broken) == {Property.REVOCATION_IS_KNOWN}


# --- restored backups ---


@pytest.mark.parametrize("at", SAMPLE)
def test_a_restored_node_catches_up_and_harms_no_other_edge(at: int) -> None:
    for found in plans_of(THREE[at]):
        findings = search(WithRestore(found))
        assert findings.fine, (found.topology.edges, findings)


@pytest.mark.parametrize(
    ("model", "broken"),
    [
        (WithRestore(plan(topology(star(1))), heeded=False), {Property.ACKNOWLEDGED_IS_APPLIED}),
        (WithRestore(plan(topology(star(1))), fresh=False), {Property.ACKNOWLEDGED_IS_APPLIED}),
        (
            WithRestore(plan(topology(star(1))), ordered=False),
            {Property.OWN_ANCHOR, Property.OWN_CERTIFICATE},
        ),
    ],
    ids=["reports-are-ignored", "late-acknowledgements-count", "tasks-in-any-order"],
)
def test_without_what_restores_need_their_own_property_breaks(
    model: WithRestore, broken: set[Property]
) -> None:
    assert set(search(model).broken) == broken


def test_every_gate_is_in_some_plan() -> None:
    found = plan(topology(star(1)), Order.SPLIT)
    assert {gate for task in found.tasks for gate in task.gates} == set(Gate) == set(PROPERTY_OF)
