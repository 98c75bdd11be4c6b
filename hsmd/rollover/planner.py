"""The planner: from a topology to the tasks of its nodes and their order (rows R3 to R9 of the requirements).

Each step follows an edge once, so the time is linear in nodes and edges. In the split order anchors, certificates and
removals are three strata, so no topology has a cycle of tasks. In the bundled order a node waits for its clients, which
needs a topology without cycles, and servers verify new certificates of their clients through the link certificate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from hsmd.rollover import graph
from hsmd.rollover.consistency import reach
from hsmd.rollover.plan import Gate, Kind, Order, Plan, Task, Way, task_id
from hsmd.rollover.problems import Faults, PlanRefused, cycle, named
from hsmd.rollover.topology import Edge, Topology, format_time

_KINDS = list(Kind)
_SPLIT_STAGES = 3
_OTHER_ORDERS = "plan without --bundled, or with --mixed, which bundles only the nodes for which it is safe"
Waits = dict[Gate, list[str]]


def plan(topology: Topology, order: Order = Order.SPLIT) -> Plan:
    """The plan.

    Raises PlanRefused if the bundled order is asked for and not safe for every node, or if the dates leave too little time.
    """
    around = Neighbours.of(topology)
    obstacles = bundling_obstacles(topology, around)
    if order is Order.BUNDLED and obstacles:
        raise PlanRefused(_refusals(obstacles), _OTHER_ORDERS)
    bundled = _bundled_nodes(topology, around, order, obstacles)
    waits = _all_waits(topology, around, bundled)
    ids = list(waits)
    number = {name: at for at, name in enumerate(ids)}
    arrows = [[number[other] for names in gates.values() for other in names] for gates in waits.values()]
    stages = graph.depths(arrows)
    limits = _limits(topology, arrows)
    tasks = [_task(name, waits[name], stages[at], limits[at], around, bundled) for at, name in enumerate(ids)]
    tasks.sort(key=lambda task: (task.stage, _KINDS.index(task.kind), task.node))
    return Plan(topology, order, _ways(topology, around, order, bundled, obstacles), tuple(tasks))


# --- who verifies whom ---


@dataclass(frozen=True, slots=True)
class Neighbours:
    """For each node, by name: its servers and clients, and those of them on mutual edges, in order of their names."""

    servers: Mapping[str, list[str]]
    clients: Mapping[str, list[str]]
    mutual_servers: Mapping[str, list[str]]
    mutual_clients: Mapping[str, list[str]]

    @classmethod
    def of(cls, topology: Topology) -> Neighbours:
        """The neighbours in a topology, whose edges are in order."""
        maps: list[dict[str, list[str]]] = [{node.name: [] for node in topology.nodes} for _ in range(4)]
        found = cls(*maps)
        for edge in topology.edges:
            maps[0][edge.client].append(edge.server)
            maps[1][edge.server].append(edge.client)
            if edge.mutual:
                maps[2][edge.client].append(edge.server)
                maps[3][edge.server].append(edge.client)
        return found

    def verifies(self, node: str) -> bool:
        """Whether the node verifies certificates of any counterpart: then it has anchors."""
        return bool(self.servers[node] or self.mutual_clients[node])

    def is_verified(self, node: str) -> bool:
        """Whether any counterpart verifies the node's certificate: then it has one."""
        return bool(self.clients[node] or self.mutual_servers[node])


# --- the order of a node ---


def bundling_obstacles(topology: Topology, around: Neighbours) -> dict[str, str]:
    """Nodes that must not get anchor and certificate at once, with the reason; those with only one of the two are not here."""
    found = {
        edge.client: reason
        for edge in reversed(topology.edges)
        if edge.mutual and around.is_verified(edge.client) and (reason := _link_obstacle(topology, edge))
    }
    return found | _cycles(topology)


def _link_obstacle(topology: Topology, edge: Edge) -> str:
    """Why the server of a mutual edge could not verify the client's new certificate before it has the new key."""
    if not topology.authority.link:
        return (
            f"{edge.label} is mutual: {edge.server} verifies the new certificate of {edge.client} only through the link "
            "certificate, and authority.link is false"
        )
    if not topology.by_name[edge.client].managed:
        return (
            f"{edge.label} is mutual and {edge.client} is changed by hand: "
            "nothing shows that it sends the link certificate"
        )
    return ""


def _cycles(topology: Topology) -> dict[str, str]:
    """Nodes on cycles of the relation from client to server; all of a component have the same cycle as their reason."""
    names = [node.name for node in topology.nodes]
    number = {name: at for at, name in enumerate(names)}
    arrows: list[list[int]] = [[] for _ in names]
    for edge in topology.edges:
        arrows[number[edge.client]].append(number[edge.server])
    component = graph.strong_components(arrows)
    on_cycle = graph.on_cycles(arrows, component)
    reasons: dict[int, str] = {}
    for at in range(len(names)):
        if on_cycle[at] and component[at] not in reasons:
            walked = graph.shortest_cycle(arrows, component, at)
            ring = cycle(names[node] for node in walked)
            reasons[component[at]] = f"each on the cycle {ring} would wait for its own client to be first"
    return {names[at]: reasons[component[at]] for at in range(len(names)) if on_cycle[at]}


def _refusals(obstacles: Mapping[str, str]) -> list[str]:
    """One line for each reason, with the nodes that it is the reason for."""
    nodes: dict[str, list[str]] = {}
    for name in sorted(obstacles):
        nodes.setdefault(obstacles[name], []).append(name)
    faults = Faults()
    for reason, names in nodes.items():
        faults.add(f"{named(names)}: {reason}")
    return [f"the bundled order is not safe for {line}" for line in faults.listed()]


def _bundled_nodes(
    topology: Topology, around: Neighbours, order: Order, obstacles: Mapping[str, str]
) -> frozenset[str]:
    if order is Order.SPLIT:
        return frozenset()
    return frozenset(
        node.name
        for node in topology.nodes
        if node.name not in obstacles and around.verifies(node.name) and around.is_verified(node.name)
    )


def _ways(
    topology: Topology,
    around: Neighbours,
    order: Order,
    bundled: frozenset[str],
    obstacles: Mapping[str, str],
) -> tuple[Way, ...]:
    relays = reach(topology.nodes)
    return tuple(
        Way(
            Order.BUNDLED if node.name in bundled else Order.SPLIT,
            _reason(node.name, around, order, bundled, obstacles),
            _path(node.name, relays),
        )
        for node in topology.nodes
    )


def _path(name: str, relays: Mapping[str, str]) -> tuple[str, ...]:
    """The relays between controller and node, in the order in which a message passes them."""
    path: list[str] = []
    while relays.get(name):
        name = relays[name]
        path.append(name)
    return tuple(reversed(path))


def _reason(
    name: str, around: Neighbours, order: Order, bundled: frozenset[str], obstacles: Mapping[str, str]
) -> str:
    if not around.verifies(name) and not around.is_verified(name):
        return "it has no edge"
    if not around.is_verified(name):
        return "it has no certificate to change"
    if not around.verifies(name):
        return "it verifies no certificate"
    if name in bundled:
        if around.mutual_servers[name]:
            return "it is on no cycle, and its servers verify its new certificate through the link"
        return "it is on no cycle, and no server authenticates it"
    if name in obstacles:
        return obstacles[name]
    assert order is Order.SPLIT
    return "the split order was asked for; bundled would be safe here"


# --- gates ---


def _all_waits(topology: Topology, around: Neighbours, bundled: frozenset[str]) -> dict[str, Waits]:
    """What each task waits for."""
    anchors = {
        node.name: task_id(Kind.BUNDLE if node.name in bundled else Kind.ANCHOR, node.name)
        for node in topology.nodes
        if around.verifies(node.name)
    }
    certificates = {
        node.name: task_id(Kind.BUNDLE if node.name in bundled else Kind.CERTIFICATE, node.name)
        for node in topology.nodes
        if around.is_verified(node.name)
    }
    waits: dict[str, Waits] = {}
    for node in topology.nodes:
        waits.update(_waits_of(node.name, around, anchors, certificates))
    return waits


def _waits_of(
    name: str, around: Neighbours, anchors: Mapping[str, str], certificates: Mapping[str, str]
) -> Iterator[tuple[str, Waits]]:
    """The tasks of one node with their gates. A counterpart on an edge has the task that its gate is about."""
    anchor, certificate = anchors.get(name), certificates.get(name)
    clients_anchored = [anchors[client] for client in around.clients[name]]
    if anchor is not None and anchor == certificate:
        yield anchor, _gates({Gate.CLIENTS_ANCHORED: clients_anchored})
    else:
        if anchor is not None:
            yield anchor, {}
        if certificate is not None:
            yield (
                certificate,
                _gates(
                    {
                        Gate.OWN_ANCHOR: [anchor] if anchor else [],
                        Gate.CLIENTS_ANCHORED: clients_anchored,
                        Gate.SERVERS_ANCHORED: [anchors[server] for server in around.mutual_servers[name]],
                    }
                ),
            )
    if anchor is not None:
        yield (
            task_id(Kind.REMOVAL, name),
            _gates(
                {
                    Gate.OWN_CERTIFICATE: [certificate] if certificate else [],
                    Gate.SERVERS_SWITCHED: [certificates[server] for server in around.servers[name]],
                    Gate.CLIENTS_SWITCHED: [certificates[client] for client in around.mutual_clients[name]],
                }
            ),
        )


def _gates(waits: Waits) -> Waits:
    return {gate: sorted(names) for gate, names in waits.items() if names}


def _task(
    name: str,
    waits: Waits,
    stage: int,
    not_after: datetime,
    around: Neighbours,
    bundled: frozenset[str],
) -> Task:
    kind, _, node = name.partition(":")
    until = (
        [task_id(Kind.REMOVAL, server) for server in around.mutual_servers[node]]
        if kind == Kind.BUNDLE
        else []
    )
    gates = {gate: tuple(names) for gate, names in waits.items()}
    return Task(Kind(kind), node, gates, stage, not_after, tuple(until))


# --- dates ---


def _limits(topology: Topology, arrows: Sequence[Sequence[int]]) -> list[datetime]:
    """Until when each task is to be acknowledged, so that those behind it have their share of the time, too.

    The time from start to deadline is divided by the length of the longest chain of tasks. Raises PlanRefused.
    """
    schedule = topology.schedule
    behind: list[list[int]] = [[] for _ in arrows]
    for task, awaited in enumerate(arrows):
        for other in awaited:
            behind[other].append(task)
    tails = graph.depths(behind)
    longest = max(tails, default=1)
    span = int((schedule.deadline - schedule.starts).total_seconds())
    _check_dates(topology, span, longest)
    return [schedule.deadline - timedelta(seconds=(tail - 1) * (span // longest)) for tail in tails]


def _check_dates(topology: Topology, span: int, longest: int) -> None:
    schedule, faults = topology.schedule, Faults()
    ends, skew = topology.authority.ends, timedelta(seconds=schedule.clock_skew_s)
    if span < longest * schedule.task_s:
        faults.add(
            f"schedule: from starts to deadline there are {span} seconds, and {longest} tasks that wait for each other need "
            f"{longest * schedule.task_s} ({schedule.task_s} each, schedule.task_s); start earlier, or move the deadline"
            + (", or use the split order, which needs 3" if longest > _SPLIT_STAGES else "")
        )
    if schedule.deadline + skew >= ends:
        faults.add(
            f"schedule.deadline: {format_time(schedule.deadline)} and {schedule.clock_skew_s} seconds of clock skew are not "
            f"before authority.ends, {format_time(ends)}: then no node verifies old certificates; be done earlier"
        )
    for node in topology.nodes:
        if node.certificate_ends is not None and node.certificate_ends <= schedule.starts + skew:
            faults.add(
                f"nodes.{node.name}.certificate_ends: {format_time(node.certificate_ends)} is not after schedule.starts "
                "and the clock skew; renew the certificate first"
            )
    if faults:
        raise PlanRefused(faults.listed(), "correct the dates in the topology")
