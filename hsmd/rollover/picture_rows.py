"""What the rows of a picture stand for: nodes, or in a large fleet groups of nodes that take part in the same way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property

from hsmd.rollover import graph
from hsmd.rollover.plan import Kind, Plan

MAX_NODES = 24
"""Nodes that have a row each; of more, those that are alike share one."""
MAX_ROWS = 40
MAX_COLUMNS = 24
_MOST_COMPONENTS = 8
"""Components that keep rows of their own if there are too many."""


@dataclass(frozen=True)
class Row:
    """One row. `cells`: by column and kind, the number of tasks."""

    names: tuple[str, ...]
    cells: Mapping[tuple[int, Kind], int]
    awaited: Mapping[tuple[int, Kind], Mapping[tuple[Kind, int], int]]
    """By column and kind, what is waited for beyond the row's own tasks: kind and row, and the number of tasks."""

    @cached_property
    def label(self) -> str:
        """The first name, and how many there are besides."""
        return self.names[0] if len(self.names) == 1 else f"{self.names[0]} +{len(self.names) - 1:,}"


@dataclass(frozen=True)
class Arc:
    """Edges between two rows. `to_second`, `to_first`: whether there are servers there; `mutual`: whether any edge is."""

    first: int
    second: int
    to_second: bool
    to_first: bool
    mutual: bool
    count: int


@dataclass(frozen=True)
class Rows:
    """A plan in rows. `width` is how many stages a column has."""

    rows: tuple[Row, ...]
    arcs: tuple[Arc, ...]
    columns: int
    width: int
    grouped: bool


def rows_of(plan: Plan) -> Rows:
    """The rows of a plan, those with clients above those with their servers, connected ones together."""
    places = _places(plan)
    names = [node.name for node in plan.topology.nodes]
    keys = _keys(plan, places)
    members: dict[Hashable, list[str]] = defaultdict(list)
    for at in sorted(range(len(names)), key=lambda at: (*places[at], names[at])):
        members[keys[at]].append(names[at])
    row_of = {name: at for at, group in enumerate(members.values()) for name in group}
    width = -(-plan.stages // MAX_COLUMNS) or 1
    cells, awaited = _cells(plan, row_of, width)
    rows = [
        Row(tuple(sorted(group)), cells.get(at, {}), awaited.get(at, {}))
        for at, group in enumerate(members.values())
    ]
    columns = -(-plan.stages // width)
    return Rows(tuple(rows), _arcs(plan, row_of), columns, width, len(rows) < len(names))


def _places(plan: Plan) -> list[tuple[int, int]]:
    """For each node its component, and its tier: 0 for those that have no clients, 1 for their servers, and so on.

    All nodes of a cycle are in one tier.
    """
    number = {node.name: at for at, node in enumerate(plan.topology.nodes)}
    arrows: list[list[int]] = [[] for _ in number]
    for edge in plan.topology.edges:
        arrows[number[edge.client]].append(number[edge.server])
    strong = graph.strong_components(arrows)
    clients: list[set[int]] = [set() for _ in range(max(strong, default=-1) + 1)]
    for client, servers in enumerate(arrows):
        for server in servers:
            if strong[client] != strong[server]:
                clients[strong[server]].add(strong[client])
    tiers = graph.depths([sorted(each) for each in clients])
    weak = graph.weak_components(arrows)
    return [(weak[at], tiers[strong[at]] - 1) for at in range(len(arrows))]


def _keys(plan: Plan, places: list[tuple[int, int]]) -> list[Hashable]:
    """For each node what its row is known by: the finest distinction that gives few enough rows."""
    count = len(places)
    if count <= MAX_NODES:
        return list(range(count))
    ways: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for task in plan.tasks:
        ways[task.node].append((task.kind, task.stage))
    names = [node.name for node in plan.topology.nodes]
    tiers = max(tier for _, tier in places) + 1
    largest = _largest_components(places)
    bands = max(1, MAX_ROWS // (len(set(largest.values())) or 1) - 1)

    def band(tier: int) -> int:
        return tier * min(bands, tiers) // tiers

    shapes = _shapes(places, [tuple(ways[name]) for name in names])
    choices: list[Callable[[int], Hashable]] = [
        lambda at: (*places[at], tuple(ways[names[at]])),
        lambda at: (shapes[places[at][0]], places[at][1], tuple(ways[names[at]])),
        lambda at: places[at],
        lambda at: (largest[places[at][0]], band(places[at][1])),
    ]
    for choice in choices:
        keys = [choice(at) for at in range(count)]
        if len(set(keys)) <= MAX_ROWS:
            break
    return keys


def _shapes(places: list[tuple[int, int]], ways: list[tuple[tuple[str, int], ...]]) -> dict[int, Hashable]:
    """For each component the tiers that it has and how nodes take part there: those of one shape can share rows."""
    found: dict[int, set[Hashable]] = defaultdict(set)
    for (component, tier), way in zip(places, ways, strict=True):
        found[component].add((tier, way))
    return {component: frozenset(members) for component, members in found.items()}


def _largest_components(places: list[tuple[int, int]]) -> dict[int, int]:
    """Each component to itself, or those beyond the largest ones to -1."""
    sizes: dict[int, int] = defaultdict(int)
    for component, _ in places:
        sizes[component] += 1
    ranked = sorted(sizes, key=lambda component: (-sizes[component], component))
    kept = len(ranked) if len(ranked) <= _MOST_COMPONENTS else _MOST_COMPONENTS - 1
    return {component: component if at < kept else -1 for at, component in enumerate(ranked)}


Cells = dict[int, dict[tuple[int, Kind], int]]
Awaited = dict[int, dict[tuple[int, Kind], dict[tuple[Kind, int], int]]]


def _cells(plan: Plan, row_of: Mapping[str, int], width: int) -> tuple[Cells, Awaited]:
    cells: Cells = defaultdict(lambda: defaultdict(int))
    awaited: Awaited = defaultdict(lambda: defaultdict(dict))
    seen: dict[tuple[int, int, Kind], set[str]] = defaultdict(set)
    for task in plan.tasks:
        row, column = row_of[task.node], (task.stage - 1) // width
        cells[row][column, task.kind] += 1
        found = awaited[row][column, task.kind]
        counted = seen[row, column, task.kind]
        for name in task.waits_for():
            other = plan.by_id[name]
            if other.node != task.node and name not in counted:
                counted.add(name)
                place = (other.kind, row_of[other.node])
                found[place] = found.get(place, 0) + 1
    return cells, awaited


def _arcs(plan: Plan, row_of: Mapping[str, int]) -> tuple[Arc, ...]:
    found: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for edge in plan.topology.edges:
        client, server = row_of[edge.client], row_of[edge.server]
        flags = found[min(client, server), max(client, server)]
        flags[0] |= client <= server
        flags[1] |= client > server
        flags[2] |= edge.mutual
        flags[3] += 1
    return tuple(
        Arc(*rows, bool(flags[0]), bool(flags[1]), bool(flags[2]), flags[3])
        for rows, flags in sorted(found.items())
    )
