"""A plan: for each node its tasks, what each waits for, and until when it is to be acknowledged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cached_property

from hsmd.rollover.problems import named
from hsmd.rollover.topology import Topology


class Order(StrEnum):
    """How nodes get anchor and certificate: in two steps; in one; or in one where that is safe."""

    SPLIT = "split"
    BUNDLED = "bundled"
    MIXED = "mixed"


class Kind(StrEnum):
    """What a node does in a task.

    `A`: keep the new key beside the old one, verified through the link certificate. `C`: use its new certificate. `AC`: both
    at once. `R`: store the self-signed certificate of the new key, verified under the key from the link, and remove the old
    certificate and the link.
    """

    ANCHOR = "A"
    CERTIFICATE = "C"
    BUNDLE = "AC"
    REMOVAL = "R"


ANCHORING = (Kind.ANCHOR, Kind.BUNDLE)
SWITCHING = (Kind.CERTIFICATE, Kind.BUNDLE)


class Gate(StrEnum):
    """Why a task waits for others.

    `own-anchor`: a node has the new key before it uses its new certificate. `clients-anchored`: a server changes after its
    clients have the new key. `servers-anchored`: likewise a client that its servers authenticate. `own-certificate`: a node
    keeps the old key until it uses its new certificate. `servers-switched`: a client keeps it until all its servers use new
    ones. `clients-switched`: likewise a server whose clients authenticate.
    """

    OWN_ANCHOR = "own-anchor"
    CLIENTS_ANCHORED = "clients-anchored"
    SERVERS_ANCHORED = "servers-anchored"
    OWN_CERTIFICATE = "own-certificate"
    SERVERS_SWITCHED = "servers-switched"
    CLIENTS_SWITCHED = "clients-switched"


GATE_WORDS: Mapping[Gate, str] = {
    Gate.OWN_ANCHOR: "it has the new key itself",
    Gate.CLIENTS_ANCHORED: "its clients have the new key",
    Gate.SERVERS_ANCHORED: "its servers have the new key",
    Gate.OWN_CERTIFICATE: "it uses its new certificate",
    Gate.SERVERS_SWITCHED: "its servers use new certificates",
    Gate.CLIENTS_SWITCHED: "its clients use new certificates",
}


@dataclass(frozen=True, slots=True)
class Task:
    """One task of one node. `gates` are the names of other tasks, in order, that have to be acknowledged before it is sent.

    `stage` is 1 for tasks that wait for nothing, and otherwise one more than the latest of those that it waits for.
    `link_until`: the node sends the link certificate in its chain until these tasks are done.
    """

    kind: Kind
    node: str
    gates: Mapping[Gate, tuple[str, ...]]
    stage: int
    not_after: datetime
    link_until: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The name of the task: `A:web1`."""
        return task_id(self.kind, self.node)

    def waits_for(self) -> Iterator[str]:
        """All tasks that it waits for, by gates."""
        for names in self.gates.values():
            yield from names


@dataclass(frozen=True, slots=True)
class Way:
    """How a node takes part: in which order, why, and through which relays it is reached, the one next to it last."""

    order: Order
    reason: str
    relays: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The plan for a topology. `ways` are those of `topology.nodes`, one each; tasks are in order of stage, kind and node."""

    topology: Topology
    order: Order
    ways: tuple[Way, ...]
    tasks: tuple[Task, ...]

    @cached_property
    def by_id(self) -> Mapping[str, Task]:
        """Tasks by name."""
        return {task.id: task for task in self.tasks}

    @cached_property
    def stages(self) -> int:
        """The number of stages, 0 if there is nothing to do."""
        return max((task.stage for task in self.tasks), default=0)

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What an operator should know although it does not stop the plan."""
        return tuple(_notes(self))


def task_id(kind: Kind, node: str) -> str:
    """The name of a task."""
    return f"{kind.value}:{node}"


def _notes(plan: Plan) -> Iterator[str]:
    busy = {task.node for task in plan.tasks}
    idle = [node.name for node in plan.topology.nodes if node.name not in busy]
    if idle:
        yield f"no edge has {named(idle)}: there is nothing to do there"
    by_hand = [node.name for node in plan.topology.nodes if not node.managed]
    if by_hand:
        yield f"changed by hand, each task confirmed by an operator: {named(by_hand)}"
    ends = {node.name: node.certificate_ends for node in plan.topology.nodes if node.certificate_ends}
    renewed = sorted(
        task.node
        for task in plan.tasks
        if task.kind in SWITCHING and task.node in ends and ends[task.node] <= task.not_after
    )
    if renewed:
        yield f"to be renewed under the old key, as always, if their turn comes late: {named(renewed)}"
