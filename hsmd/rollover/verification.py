"""Whether a plan is what its topology demands, decided without the planner: from each edge to the gates that it needs.

A reader, a node included, that has checked this knows that a plan which someone else computed drops no gate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import timedelta
from itertools import pairwise

from hsmd.rollover import graph
from hsmd.rollover.plan import Gate, Kind, Order, Plan, task_id
from hsmd.rollover.problems import Faults, PlanInvalid, named
from hsmd.rollover.topology import Topology

_KINDS = list(Kind)
Demands = defaultdict[str, defaultdict[Gate, set[str]]]


def check(plan: Plan) -> None:
    """Raises PlanInvalid unless tasks, gates, stages, dates and ways are those that the topology demands.

    1. Each node has the tasks for what it verifies and what verifies it, and is bundled only where that is safe.
    2. Each task waits for exactly the tasks that the edges demand, and no task waits for itself through others.
    3. Dates leave each task its time, and end before the old certificate does.
    4. Each hop to a node is the management link or an edge.
    """
    faults = Faults()
    _check_tasks(plan, faults)
    if not faults:
        _check_bundles(plan, faults)
        _check_gates(plan, faults)
    if not faults:
        _check_stages(plan, faults)
        _check_dates(plan, faults)
        _check_ways(plan, faults)
    if faults:
        raise PlanInvalid("; ".join(faults.listed()))


# --- 1. tasks ---


def _check_tasks(plan: Plan, faults: Faults) -> None:
    if len(plan.ways) != len(plan.topology.nodes):
        faults.add("nodes: not those of the topology, one each in order of their names")
        return
    ids = [task.id for task in plan.tasks]
    if len(set(ids)) < len(ids):
        faults.add("tasks: one is there twice")
    demanded = {task_id(kind, node) for node, kinds in _kinds(plan).items() for kind in kinds}
    if missing := sorted(demanded - set(ids)):
        faults.add(f"tasks: {named(missing)} missing, which the topology demands")
    if further := sorted(set(ids) - demanded):
        faults.add(f"tasks: {named(further)} not demanded by the topology")
    ranks = [(task.stage, _KINDS.index(task.kind), task.node) for task in plan.tasks]
    if ranks != sorted(ranks):
        faults.add("tasks: not in order of stage, kind and node")


def _kinds(plan: Plan) -> dict[str, list[Kind]]:
    verifies, verified = _roles(plan.topology)
    found: dict[str, list[Kind]] = {}
    for node, way in zip(plan.topology.nodes, plan.ways, strict=True):
        name = node.name
        kinds = [Kind.ANCHOR] * (name in verifies) + [Kind.CERTIFICATE] * (name in verified)
        if way.order is Order.BUNDLED:
            kinds = [Kind.BUNDLE]
        found[name] = kinds + [Kind.REMOVAL] * (name in verifies)
    return found


def _roles(topology: Topology) -> tuple[set[str], set[str]]:
    """The nodes that verify a counterpart, and those that a counterpart verifies."""
    verifies, verified = set(), set()
    for edge in topology.edges:
        verifies.add(edge.client)
        verified.add(edge.server)
        if edge.mutual:
            verifies.add(edge.server)
            verified.add(edge.client)
    return verifies, verified


def _check_bundles(plan: Plan, faults: Faults) -> None:
    verifies, verified = _roles(plan.topology)
    for node, way in zip(plan.topology.nodes, plan.ways, strict=True):
        both = node.name in verifies and node.name in verified
        if way.order is Order.MIXED or (way.order is Order.BUNDLED and plan.order is Order.SPLIT):
            faults.add(f"nodes: {node.name} has the order {way.order}, in a plan of the order {plan.order}")
        if way.order is Order.BUNDLED and not both:
            faults.add(f"nodes: {node.name} has nothing to bundle")
        if way.order is Order.SPLIT and plan.order is Order.BUNDLED and both:
            faults.add(f"nodes: {node.name} is not bundled, in a plan of the order bundled")
    bundled = _bundled(plan)
    for edge in plan.topology.edges:
        if edge.mutual and edge.client in bundled:
            if not plan.topology.authority.link:
                faults.add(f"edge {edge.label}: {edge.client} is bundled, and there is no link certificate")
            if not plan.topology.by_name[edge.client].managed:
                faults.add(f"edge {edge.label}: {edge.client} is bundled, and is changed by hand")


def _bundled(plan: Plan) -> set[str]:
    return {
        node.name
        for node, way in zip(plan.topology.nodes, plan.ways, strict=True)
        if way.order is Order.BUNDLED
    }


# --- 2. gates ---


def _check_gates(plan: Plan, faults: Faults) -> None:
    demanded, links = _demands(plan)
    for task in plan.tasks:
        wanted = demanded[task.id]
        for gate in Gate:
            has, needs = task.gates.get(gate, ()), wanted[gate]
            if list(has) != sorted(needs) or (gate in task.gates and not needs):
                faults.add(f"task {task.id}: {_difference(gate, set(has), needs)}")
        if list(task.link_until) != sorted(links[task.id]):
            faults.add(f"task {task.id}: link_until is not {named(sorted(links[task.id])) or 'empty'}")


def _difference(gate: Gate, has: set[str], needs: set[str]) -> str:
    if missing := sorted(needs - has):
        return f"does not wait for {named(missing)} (gate {gate}), which the topology demands"
    if further := sorted(has - needs):
        return f"waits for {named(further)} (gate {gate}), which the topology does not demand"
    return f"the gate {gate} is empty, has a task twice, or is not in order"


def _demands(plan: Plan) -> tuple[Demands, defaultdict[str, set[str]]]:
    """For each task what each gate needs; for each bundled one until when its link certificate is needed."""
    bundled = _bundled(plan)
    demands: Demands = defaultdict(lambda: defaultdict(set))
    links: defaultdict[str, set[str]] = defaultdict(set)

    def anchor(name: str) -> str:
        return task_id(Kind.BUNDLE if name in bundled else Kind.ANCHOR, name)

    def certificate(name: str) -> str:
        return task_id(Kind.BUNDLE if name in bundled else Kind.CERTIFICATE, name)

    def removal(name: str) -> str:
        return task_id(Kind.REMOVAL, name)

    for edge in plan.topology.edges:
        client, server = edge.client, edge.server
        demands[certificate(server)][Gate.CLIENTS_ANCHORED].add(anchor(client))
        demands[removal(client)][Gate.SERVERS_SWITCHED].add(certificate(server))
        if edge.mutual:
            demands[removal(server)][Gate.CLIENTS_SWITCHED].add(certificate(client))
            if client in bundled:
                links[certificate(client)].add(removal(server))
            else:
                demands[certificate(client)][Gate.SERVERS_ANCHORED].add(anchor(server))
    verifies, verified = _roles(plan.topology)
    for name in verifies & verified:
        demands[removal(name)][Gate.OWN_CERTIFICATE].add(certificate(name))
        if name not in bundled:
            demands[certificate(name)][Gate.OWN_ANCHOR].add(anchor(name))
    return demands, links


# --- 3. stages and dates ---


def _check_stages(plan: Plan, faults: Faults) -> None:
    number = {task.id: at for at, task in enumerate(plan.tasks)}
    try:
        depths = graph.depths([[number[name] for name in task.waits_for()] for task in plan.tasks])
    except ValueError:
        faults.add("tasks: some wait for each other in a cycle, and can never be sent")
        return
    for task, depth in zip(plan.tasks, depths, strict=True):
        if task.stage != depth:
            faults.add(f"task {task.id}: is in stage {task.stage}, and belongs into stage {depth}")


def _check_dates(plan: Plan, faults: Faults) -> None:
    schedule = plan.topology.schedule
    if schedule.deadline + timedelta(seconds=schedule.clock_skew_s) >= plan.topology.authority.ends:
        faults.add("schedule.deadline: with the clock skew it is not before authority.ends")
    least = timedelta(seconds=schedule.task_s)
    by_id = {task.id: task for task in plan.tasks}
    for task in plan.tasks:
        before = max((by_id[name].not_after for name in task.waits_for()), default=schedule.starts)
        if task.not_after - before < least or task.not_after > schedule.deadline:
            faults.add(
                f"task {task.id}: not_after leaves less than schedule.task_s, or is after the deadline"
            )


# --- 4. ways ---


def _check_ways(plan: Plan, faults: Faults) -> None:
    by_name: Mapping[str, object] = plan.topology.by_name
    for node, way in zip(plan.topology.nodes, plan.ways, strict=True):
        stops = [*way.relays, node.name]
        if any(name not in by_name for name in stops) or not all(_hops_exist(plan.topology, stops)):
            faults.add(f"nodes: the relays to {node.name} are not a way that the topology has")


def _hops_exist(topology: Topology, stops: list[str]) -> Iterator[bool]:
    yield topology.by_name[stops[0]].direct
    for relay, name in pairwise(stops):
        yield relay in topology.by_name[name].via
