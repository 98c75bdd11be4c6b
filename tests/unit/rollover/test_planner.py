"""The planner: tasks, gates and order for known shapes, and refusals that name edge, cycle or date."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from hsmd.rollover import plan_document, topology_file
from hsmd.rollover.consistency import reach
from hsmd.rollover.plan import Gate, Kind, Order, Plan, Task
from hsmd.rollover.planner import plan
from hsmd.rollover.problems import PlanRefused
from hsmd.rollover.topology import Node, Topology
from hsmd.rollover.verification import check
from tests.support.rollover import (
    SCHEDULE,
    Pair,
    all_topologies,
    as_toml,
    chain,
    identity,
    mesh,
    node,
    ring,
    star,
    topology,
)


def waits(found: Plan, name: str) -> set[str]:
    return set(found.by_id[name].waits_for())


def refusal(shown: Topology, order: Order = Order.SPLIT) -> str:
    with pytest.raises(PlanRefused) as refused:
        plan(shown, order)
    return refused.value.text


def test_a_star_with_mutual_edges() -> None:
    found = plan(topology(star(2)))
    assert [task.id for task in found.tasks] == [
        "A:client1", "A:client2", "A:server", "C:client1", "C:client2", "C:server", "R:client1", "R:client2", "R:server"
    ]  # fmt: skip
    assert found.by_id["C:server"].gates == {
        Gate.OWN_ANCHOR: ("A:server",),
        Gate.CLIENTS_ANCHORED: ("A:client1", "A:client2"),
    }
    assert found.by_id["C:client1"].gates == {
        Gate.OWN_ANCHOR: ("A:client1",),
        Gate.SERVERS_ANCHORED: ("A:server",),
    }
    assert found.by_id["R:server"].gates == {
        Gate.OWN_CERTIFICATE: ("C:server",),
        Gate.CLIENTS_SWITCHED: ("C:client1", "C:client2"),
    }
    assert waits(found, "R:client2") == {"C:client2", "C:server"}
    assert found.stages == 3


def test_without_client_certificates_clients_have_none_and_servers_no_anchors() -> None:
    found = plan(topology(star(2, mutual=False)))
    assert [task.id for task in found.tasks] == [
        "A:client1",
        "A:client2",
        "C:server",
        "R:client1",
        "R:client2",
    ]
    assert waits(found, "C:server") == {"A:client1", "A:client2"}
    assert waits(found, "R:client1") == {"C:server"}


@pytest.mark.parametrize("shape", [chain(5), ring(4), mesh(4), star(3)])
def test_the_split_order_has_three_stages_whatever_the_shape(shape: list[Pair]) -> None:
    found = plan(topology(shape))
    assert found.stages == 3
    assert {task.kind for task in found.tasks if task.stage == 1} == {Kind.ANCHOR}
    assert {task.kind for task in found.tasks if task.stage == 3} == {Kind.REMOVAL}


def test_components_do_not_wait_for_each_other() -> None:
    found = plan(topology([("a", "b", True), ("c", "d", True)]))
    assert not any(
        {name[-1] for name in task.waits_for()} - set("ab") for task in found.tasks if task.node in "ab"
    )


def test_the_bundled_order_changes_clients_before_their_servers() -> None:
    found = plan(topology(chain(3)), Order.BUNDLED)
    assert [task.id for task in found.tasks] == ["AC:n1", "AC:n2", "AC:n3", "R:n1", "R:n2", "R:n3"]
    assert waits(found, "AC:n2") == {"AC:n1"} and waits(found, "R:n2") == {"AC:n1", "AC:n2", "AC:n3"}
    assert found.by_id["AC:n1"].link_until == ("R:n2",)
    assert found.by_id["AC:n3"].link_until == ()
    assert "its servers verify its new certificate through the link" in found.ways[0].reason


def test_the_bundled_order_is_refused_with_the_cycle() -> None:
    text = refusal(topology([*ring(3), ("x", "n1", True)]), Order.BUNDLED)
    assert "n1, n2 and n3: each on the cycle n1 -> n2 -> n3 -> n1" in text
    assert "x" not in text


def test_a_node_that_is_its_own_client_is_a_cycle() -> None:
    shown = topology([("a", "a", True)])
    assert "the cycle a -> a" in refusal(shown, Order.BUNDLED)
    assert plan(shown).stages == 3


def test_the_bundled_order_is_refused_without_link_certificates_on_mutual_edges() -> None:
    text = refusal(topology([("a", "b", True), ("b", "c", False)], link=False), Order.BUNDLED)
    assert "a -> b is mutual" in text and "authority.link is false" in text and "b -> c" not in text
    assert plan(topology(chain(4, mutual=False), link=False), Order.BUNDLED).stages == 5


def test_a_client_that_is_changed_by_hand_is_not_bundled() -> None:
    shown = topology([("partner", "api", True), ("api", "db", True)], by_hand=["partner"])
    assert "partner -> api is mutual and partner is changed by hand" in refusal(shown, Order.BUNDLED)
    found = plan(shown, Order.MIXED)
    assert {"A:partner", "C:partner", "AC:api", "AC:db"} <= set(found.by_id)
    assert waits(found, "C:partner") == {"A:partner", "AC:api"}
    assert any("changed by hand" in note and "partner" in note for note in found.notes)


def test_the_mixed_order_splits_cycles_only() -> None:
    found = plan(topology([*ring(2), ("x", "n1", True), ("n2", "db", True)]), Order.MIXED)
    assert {
        way.order for way, each in zip(found.ways, found.topology.nodes, strict=True) if each.name[0] == "n"
    } == {Order.SPLIT}
    assert waits(found, "AC:db") == {"A:n2"}
    assert waits(found, "C:n2") == {"A:n2", "A:n1", "AC:db"}
    assert waits(found, "C:n1") == {"A:n1", "A:n2", "AC:x"}


def test_every_choice_has_its_reason() -> None:
    split = plan(topology([*ring(2), ("x", "n1", True), ("y", "n1", False), ("n1", "z", False)], "idle"[:1]))
    reasons = dict(
        zip((each.name for each in split.topology.nodes), (way.reason for way in split.ways), strict=True)
    )
    assert reasons["n1"] == "each on the cycle n1 -> n2 -> n1 would wait for its own client to be first"
    assert reasons["x"] == "the split order was asked for; bundled would be safe here"
    assert reasons["y"] == "it has no certificate to change"
    assert reasons["z"] == "it verifies no certificate"
    assert reasons["i"] == "it has no edge"
    assert split.notes == ("no edge has i: there is nothing to do there",)


# --- ways ---


def test_a_way_has_the_fewest_relays_and_then_the_preferred_ones() -> None:
    nodes = [
        node("a"),
        node("b"),
        node("c", "b", "a"),
        node("d", "c", "a"),
        node("e", "d"),
        Node("f", "", False, ("g",)),
    ]
    assert reach(nodes) == {"a": "", "b": "", "c": "b", "d": "a", "e": "d"}


def test_the_plan_has_the_relays_in_the_order_of_a_message() -> None:
    nodes = {"n2": node("n2", "n1"), "n3": node("n3", "n2")}
    found = plan(topology(chain(3), nodes=nodes))
    assert [way.relays for way in found.ways] == [(), ("n1",), ("n1", "n2")]


# --- dates ---


def test_the_time_is_shared_among_the_tasks_of_the_longest_chain() -> None:
    schedule = replace(SCHEDULE, deadline=SCHEDULE.starts + timedelta(seconds=4_000), task_s=1_000)
    found = plan(topology([*chain(3), ("x", "y", False)], schedule=schedule), Order.BUNDLED)
    assert found.stages == 4
    left = {task.id: int((task.not_after - schedule.starts).total_seconds()) for task in found.tasks}
    assert (
        left["AC:n1"] == 1_000 and left["AC:n2"] == 2_000 and left["AC:n3"] == 3_000 and left["R:n3"] == 4_000
    )
    assert left["R:n1"] == 4_000, "what is awaited by no other task has all the time"
    assert (left["A:x"], left["C:y"], left["R:x"]) == (2_000, 3_000, 4_000)


def test_a_plan_without_time_for_each_task_is_refused() -> None:
    schedule = replace(SCHEDULE, deadline=SCHEDULE.starts + timedelta(seconds=3_999), task_s=1_000)
    shown = topology(chain(3), schedule=schedule)
    text = refusal(shown, Order.BUNDLED)
    assert "there are 3999 seconds, and 4 tasks that wait for each other need 4000" in text
    assert "use the split order" in text
    assert plan(shown).stages == 3


@pytest.mark.parametrize("skew", [0, 300])
def test_the_deadline_and_the_clock_skew_are_before_the_end_of_the_old_key(skew: int) -> None:
    ends = topology([]).authority.ends
    at = replace(SCHEDULE, deadline=ends - timedelta(seconds=skew), clock_skew_s=skew)
    assert "are not before authority.ends, 2027-06-01T00:00:00Z" in refusal(topology(star(1), schedule=at))
    plan(topology(star(1), schedule=replace(at, deadline=at.deadline - timedelta(seconds=1))))


def test_certificates_that_end_before_the_start_are_refused_and_those_that_end_on_the_way_are_named() -> None:
    def shown(ends: datetime) -> Topology:
        return topology(
            star(2), nodes={"client1": Node("client1", identity("client1"), certificate_ends=ends)}
        )

    assert "nodes.client1.certificate_ends: 2027-03-01T08:05:00Z" in refusal(
        shown(SCHEDULE.starts + timedelta(seconds=300))
    )
    soon = plan(shown(SCHEDULE.starts + timedelta(days=1)))
    assert any("renewed under the old key" in note and "client1" in note for note in soon.notes)
    assert plan(shown(datetime(2028, 1, 1, tzinfo=UTC))).notes == ()


# --- properties ---

NAMES = "abcdefgh"
PAIRS = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES), st.booleans()),
    max_size=20,
    unique_by=lambda pair: pair[:2],
)


@given(
    PAIRS, st.sampled_from(Order), st.booleans(), st.sets(st.sampled_from(NAMES), max_size=2), st.randoms()
)
def test_plans_are_complete_deterministic_and_safe_to_reorder(
    pairs: list[Pair], order: Order, link: bool, by_hand: set[str], random: object
) -> None:
    pairs = [pair for pair in pairs if not set(pair[:2]) <= by_hand]
    shown = topology(pairs, NAMES, link=link, by_hand=by_hand)
    try:
        found = plan(shown, order)
    except PlanRefused:
        assert order is Order.BUNDLED and not _is_safe(pairs, link, by_hand)
        return
    assert order is not Order.BUNDLED or _is_safe(pairs, link, by_hand)
    check(found)
    encoded = plan_document.encode(found)
    assert plan_document.decode(encoded) == found
    mixed_up = list(range(len(pairs)))
    random.shuffle(mixed_up)  # type: ignore[attr-defined]
    again = topology_file.parse(as_toml(shown, mixed_up), "x")
    assert plan_document.encode(plan(again, order)) == encoded
    _check_edges_are_gated(found, pairs)


def _is_safe(pairs: list[Pair], link: bool, by_hand: set[str]) -> bool:
    """Whether the bundled order is safe, decided by brute force: no walk comes back, and links are there where needed."""
    reached = {(client, server) for client, server, _ in pairs}
    for _ in NAMES:
        reached |= {(a, d) for a, b in reached for c, d in reached if b == c}
    mutual_clients = {client for client, _, mutual in pairs if mutual}
    return (
        not any(a == b for a, b in reached) and (link or not mutual_clients) and not mutual_clients & by_hand
    )


def _check_edges_are_gated(found: Plan, pairs: list[Pair]) -> None:
    """In each order of tasks that the gates allow, each edge works: the later task waits for the earlier one, over others or not."""
    behind: dict[str, set[str]] = {}
    for task in found.tasks:
        behind[task.id] = {task.id}.union(*(behind[name] for name in task.waits_for()))

    def task(kinds: tuple[Kind, ...], name: str) -> Task:
        return next(each for each in found.tasks if each.kind in kinds and each.node == name)

    for client, server, mutual in pairs:
        for verifier, subject, through_link in [(client, server, False), (server, client, True)][
            : 1 + mutual
        ]:
            anchor = task((Kind.ANCHOR, Kind.BUNDLE), verifier)
            switch = task((Kind.CERTIFICATE, Kind.BUNDLE), subject)
            removal = task((Kind.REMOVAL,), verifier)
            linked = through_link and switch.kind is Kind.BUNDLE and removal.id in switch.link_until
            assert anchor.id in behind[switch.id] or linked
            assert switch.id in behind[removal.id]


def test_all_topologies_of_three_nodes_are_counted_once() -> None:
    assert len(list(all_topologies(2))) == 6
    assert len(list(all_topologies(3))) == 138


def test_stages_follow_each_other() -> None:
    for shape in all_topologies(3):
        found = plan(topology(shape, "abc"))
        stages = sorted({task.stage for task in found.tasks})
        assert all(second - first == 1 for first, second in pairwise(stages))
