"""Plans as canonical JSON (RFC 8785), with their topology in them: one form for each plan, verified when it is read."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from hsmd.envelopes import canonical_json
from hsmd.errors import EnvelopeInvalid
from hsmd.rollover import topology_file
from hsmd.rollover.members import Members
from hsmd.rollover.plan import Gate, Kind, Order, Plan, Task, Way
from hsmd.rollover.problems import Faults, PlanInvalid, TopologyInvalid
from hsmd.rollover.topology import MAX_EDGES, MAX_NODES, Topology, format_time
from hsmd.rollover.verification import check

FORMAT = "hsmd.rollover-plan/v1"
MAX_PLAN_BYTES = 64 * 1_048_576
"""Room for the plan of the largest topology with the longest names."""
MAX_TASKS = 3 * MAX_NODES
MAX_REASON_CHARACTERS = 2_000
_MAX_ID_CHARACTERS = 67


def to_document(plan: Plan) -> dict[str, object]:
    """The members of a plan."""
    return {
        "format": FORMAT,
        "topology": plan.topology.document,
        "topology_digest": plan.topology.digest,
        "order": plan.order.value,
        "nodes": [
            {"name": node.name, "order": way.order.value, "reason": way.reason, "relays": list(way.relays)}
            for node, way in zip(plan.topology.nodes, plan.ways, strict=True)
        ],
        "tasks": [_task_members(task) for task in plan.tasks],
    }


def encode(plan: Plan) -> bytes:
    """The plan as canonical JSON."""
    return canonical_json.encode(to_document(plan))


def digest(plan: Plan) -> str:
    """SHA-256 of the encoded plan, 64 hexadecimal digits: what an operator approves."""
    return sha256(encode(plan)).hexdigest()


def decode(data: bytes) -> Plan:
    """The plan that `data` encodes. Raises PlanInvalid for every other form, and unless it is what its topology demands."""
    if len(data) > MAX_PLAN_BYTES:
        raise PlanInvalid(f"it has more than {MAX_PLAN_BYTES} bytes")
    try:
        document = canonical_json.decode(data)
    except EnvelopeInvalid as problem:
        raise PlanInvalid(problem.text) from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise PlanInvalid(f'its format is not "{FORMAT}", the only one that this release reads')
    plan = _read(document)
    check(plan)
    if encode(plan) != data:
        raise PlanInvalid("its topology, or a gate without tasks, is not in the canonical form")
    return plan


def _task_members(task: Task) -> dict[str, object]:
    return {
        "kind": task.kind.value,
        "node": task.node,
        "stage": task.stage,
        "not_after": format_time(task.not_after),
        "gates": {gate.value: list(names) for gate, names in task.gates.items()},
        "link_until": list(task.link_until),
    }


def _read(document: Mapping[str, Any]) -> Plan:
    faults = Faults()
    top = Members({name: value for name, value in document.items() if name != "format"}, "", faults)
    topology = _topology(document.get("topology"))
    top.members("topology")
    if top.text("topology_digest", 64) != topology.digest and not faults:
        raise PlanInvalid("topology_digest: is not that of the topology in the plan")
    order = top.choice("order", Order)
    named_ways = [_way(members) for members in top.objects("nodes", MAX_NODES)]
    tasks = [_task(members) for members in top.objects("tasks", MAX_TASKS)]
    top.end()
    if [name for name, _ in named_ways] != [node.name for node in topology.nodes]:
        faults.add("nodes: not those of the topology, one each in order of their names")
    if faults:
        raise PlanInvalid("; ".join(faults.listed()))
    return Plan(topology, order, tuple(way for _, way in named_ways), tuple(tasks))


def _topology(value: object) -> Topology:
    if not isinstance(value, dict):
        raise PlanInvalid("topology: is missing, or not an object")
    try:
        return topology_file.from_document(value, "topology")
    except TopologyInvalid as problem:
        raise PlanInvalid(problem.text.replace("\n", "; ")) from None


def _way(members: Members) -> tuple[str, Way]:
    name = members.text("name", _MAX_ID_CHARACTERS)
    found = Way(
        members.choice("order", Order),
        members.text("reason", MAX_REASON_CHARACTERS),
        members.strings("relays", MAX_NODES),
    )
    members.end()
    return name, found


def _task(members: Members) -> Task:
    gates = members.members("gates")
    found = Task(
        members.choice("kind", Kind),
        members.text("node", _MAX_ID_CHARACTERS),
        {gate: names for gate in Gate if (names := gates.strings(gate.value, MAX_EDGES))},
        members.number("stage", 0, 1, MAX_TASKS),
        members.time("not_after"),
        members.strings("link_until", MAX_NODES),
    )
    gates.end()
    members.end()
    return found
