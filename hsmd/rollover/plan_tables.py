"""A plan as rows of text: each task, or in a large fleet the tasks of groups; and why each node has its order."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from hsmd.rollover.picture import awaited_words
from hsmd.rollover.picture_rows import rows_of
from hsmd.rollover.plan import GATE_WORDS, Kind, Plan, Task, Way
from hsmd.rollover.problems import named
from hsmd.rollover.topology import format_time

MAX_TASKS = 60
"""Tasks that are listed one by one unless all are asked for."""
MAX_WAYS = 20
TASK_HEADERS = ("STAGE", "TASK", "NODE", "WAITS UNTIL", "THROUGH", "BEFORE")
GROUP_HEADERS = ("STAGE", "TASK", "NODES", "NUMBER", "AFTER", "BEFORE")
WAY_HEADERS = ("ORDER", "NODES", "REASON")
KIND_WORDS: Mapping[Kind, str] = {
    Kind.ANCHOR: "A  keep the new key beside the old one",
    Kind.CERTIFICATE: "C  use the new certificate",
    Kind.BUNDLE: "AC  both at once",
    Kind.REMOVAL: "R  remove the old key",
}
_NAMED = 3
_DIRECT = "directly"
_BY_HAND = "by hand"


def task_rows(plan: Plan) -> list[tuple[str, ...]]:
    """A row for each task."""
    channels = {
        node.name: _channel(way, node.managed)
        for node, way in zip(plan.topology.nodes, plan.ways, strict=True)
    }
    return [
        (
            str(task.stage),
            _doing(task),
            task.node,
            _waits(task),
            channels[task.node],
            format_time(task.not_after),
        )
        for task in plan.tasks
    ]


def group_rows(plan: Plan) -> list[tuple[str, ...]]:
    """A row for each kind of task, stage and group of nodes that take part in the same way."""
    shown = rows_of(plan)
    limits: dict[tuple[int, Kind], datetime] = {}
    for task in plan.tasks:
        place = ((task.stage - 1) // shown.width, task.kind)
        limits[place] = min(limits.get(place, task.not_after), task.not_after)
    found = [
        (column, kind, at, count)
        for at, row in enumerate(shown.rows)
        for (column, kind), count in row.cells.items()
    ]
    kinds = list(Kind)
    found.sort(key=lambda each: (each[0], kinds.index(each[1]), each[2]))
    return [
        (
            _stages(column, shown.width, plan.stages),
            KIND_WORDS[kind],
            shown.rows[at].label,
            f"{count:,}",
            awaited_words(shown.rows[at].awaited.get((column, kind), {}), shown.rows, _NAMED),
            format_time(limits[column, kind]),
        )
        for column, kind, at, count in found
    ]


def way_rows(plan: Plan, *, everything: bool = True) -> list[tuple[str, ...]]:
    """A row for each reason for an order, with the nodes that it holds for; unless `everything`, of many the first ones."""
    nodes: dict[tuple[str, str], list[str]] = {}
    for node, way in zip(plan.topology.nodes, plan.ways, strict=True):
        nodes.setdefault((way.order.value, way.reason), []).append(node.name)
    rows: list[tuple[str, ...]] = [
        (order, named(names), reason) for (order, reason), names in sorted(nodes.items())
    ]
    if everything or len(rows) <= MAX_WAYS:
        return rows
    return [*rows[:MAX_WAYS], ("", f"{len(rows) - MAX_WAYS} more rows", "listed with --all, and in the plan")]


def _channel(way: Way, managed: bool) -> str:
    if not managed:
        return _BY_HAND
    return ", ".join(way.relays) or _DIRECT


def _doing(task: Task) -> str:
    """What the node does; for a bundle, to whom it sends the link."""
    servers = named(name.partition(":")[2] for name in task.link_until)
    return KIND_WORDS[task.kind] + (f", with the link for {servers}" if servers else "")


def _waits(task: Task) -> str:
    """`its clients have the new key: web1, web2`, for each gate."""
    parts = []
    for gate, names in task.gates.items():
        nodes = [name.partition(":")[2] for name in names]
        parts.append(GATE_WORDS[gate] + (f": {named(nodes)}" if nodes != [task.node] else ""))
    return "; ".join(parts)


def _stages(column: int, width: int, most: int) -> str:
    low, high = column * width + 1, min((column + 1) * width, most)
    return str(low) if low == high else f"{low}-{high}"
