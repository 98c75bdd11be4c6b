"""Whether nodes and edges of a topology fit together: names that exist, edges once, keys of one node, ways that arrive."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from hsmd.rollover.members import shown
from hsmd.rollover.problems import Faults, cycle, named
from hsmd.rollover.topology import MAX_NODES, MAX_RELAYS, NAME, Edge, Node

_NAME_RULE = "a name has 1 to 64 characters a-z A-Z 0-9 . _ -, the first a letter or digit"
_MOST_HINTS = 5
"""Searches for a name that was meant; each compares with all names."""


def check(nodes: Sequence[Node], edges: Sequence[Edge], faults: Faults) -> None:
    """Note what does not fit, with the fix."""
    by_name = _by_name(nodes, faults)
    hints = _Hints(sorted(by_name))
    _check_identities(nodes, faults)
    _check_edges(edges, by_name, hints, faults)
    _check_relays(nodes, by_name, edges, hints, faults)
    if not faults:
        _check_ways(nodes, faults)


class _Hints:
    """Names that may have been meant, for the first few misspelt ones."""

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._left = _MOST_HINTS

    def for_name(self, name: str) -> str:
        """`; did you mean X?`, or nothing."""
        if self._left == 0:
            return ""
        self._left -= 1
        like = difflib.get_close_matches(name[:64], self._names, 1)
        return f"; did you mean {like[0]}?" if like else ""


def _by_name(nodes: Sequence[Node], faults: Faults) -> Mapping[str, Node]:
    if not nodes:
        faults.add("nodes: there are none; add a table [nodes.NAME] for each server and client")
    if len(nodes) > MAX_NODES:
        faults.add(
            f"nodes and counterparts are {len(nodes)}, and may be {MAX_NODES}; plan parts of the fleet"
        )
    by_name: dict[str, Node] = {}
    for node in nodes:
        if not NAME.match(node.name):
            faults.add(f"{_place(node)}: is not a valid name; {_NAME_RULE}")
        if node.name in by_name:
            faults.add(f"counterparts.{node.name}: is a node, too; remove one of the two tables")
        by_name[node.name] = node
    return by_name


def _check_identities(nodes: Iterable[Node], faults: Faults) -> None:
    """A key of two nodes would let one acknowledge for the other."""
    owners: dict[str, str] = {}
    for node in nodes:
        if node.managed and node.identity in owners:
            faults.add(
                f"nodes.{node.name}.identity: is the key of {owners[node.identity]}, too; give each node a key of its own"
            )
        owners[node.identity] = node.name


def _check_edges(edges: Iterable[Edge], by_name: Mapping[str, Node], hints: _Hints, faults: Faults) -> None:
    seen: set[tuple[str, str]] = set()
    for edge in edges:
        for role, name in (("client", edge.client), ("server", edge.server)):
            if name not in by_name:
                hint = hints.for_name(name) if faults.room else ""
                faults.add(
                    f"edge {shown(edge.client)} -> {shown(edge.server)}: its {role} {shown(name)} is not a node{hint}; "
                    f"add [nodes.{shown(name)}], or declare it in [counterparts.{shown(name)}] with a reason"
                )
        if (edge.client, edge.server) in seen:
            faults.add(f"edge {edge.label}: is given twice; remove one of them")
        seen.add((edge.client, edge.server))
        ends = [by_name.get(edge.client), by_name.get(edge.server)]
        if all(end is not None and not end.managed for end in ends):
            faults.add(
                f"edge {edge.label}: neither end is managed; remove the edge, its owners change both ends"
            )


def _check_relays(
    nodes: Iterable[Node], by_name: Mapping[str, Node], edges: Iterable[Edge], hints: _Hints, faults: Faults
) -> None:
    """Every hop is an edge of the topology: then it stays up for as long as the plan is followed."""
    adjacent = {frozenset((edge.client, edge.server)) for edge in edges}
    for node in nodes:
        place = f"nodes.{node.name}.via"
        if not node.direct and not node.via:
            faults.add(f"{place}: names no relay, and direct is false; the node cannot be reached")
        if len(set(node.via)) < len(node.via):
            faults.add(f"{place}: names a relay twice; remove one of them")
        for relay in node.via:
            if relay == node.name:
                faults.add(f"{place}: {relay} cannot be its own relay; name another node")
            elif relay not in by_name:
                hint = hints.for_name(relay) if faults.room else ""
                faults.add(f"{place}: {shown(relay)} is not a node{hint}; name one that has an edge with it")
            elif not by_name[relay].managed:
                faults.add(f"{place}: {relay} is not managed and relays nothing; name another node")
            elif frozenset((relay, node.name)) not in adjacent:
                faults.add(
                    f"{place}: there is no edge between {relay} and {node.name}; "
                    "add the edge, name another relay, or reach it directly"
                )


def _check_ways(nodes: Sequence[Node], faults: Faults) -> None:
    """Every node is reached from the controller; those that are not are on, or behind, a cycle of `via`."""
    reached = reach(nodes)
    _check_lengths(reached, faults)
    by_name = {node.name: node for node in nodes}
    done: set[str] = set()
    for node in nodes:
        walked: list[str] = []
        name = node.name
        while name not in reached and name not in done:
            done.add(name)
            walked.append(name)
            name = by_name[name].via[0]
        if name in walked:
            ring = walked[walked.index(name) :]
            faults.add(
                f"nodes.{ring[0]}.via: {cycle(ring)} is a cycle, and none of {named(ring)} is reached directly; "
                "set direct = true for one of them, or name a relay outside of the cycle"
            )


def _check_lengths(reached: Mapping[str, str], faults: Faults) -> None:
    hops: dict[str, int] = {}
    for name, relay in reached.items():  # relays come before those behind them
        hops[name] = hops[relay] + 1 if relay else 0
        if hops[name] == MAX_RELAYS + 1:
            faults.add(
                f"nodes.{name}.via: there are more than {MAX_RELAYS} relays on the way to {name}; "
                "reach it, or one of them, directly"
            )


def reach(nodes: Iterable[Node]) -> dict[str, str]:
    """How each node is reached with the fewest hops: its relay, empty for the management link. Those without a way are missing.

    Of several relays at the same distance it is the one that the node names first.
    """
    listed = list(nodes)
    behind: dict[str, list[Node]] = {}
    for node in listed:
        for relay in node.via:
            behind.setdefault(relay, []).append(node)
    found = {node.name: "" for node in listed if node.direct}
    layer = list(found)
    while layer:
        offers: dict[str, tuple[int, str]] = {}
        for relay in layer:
            for node in behind.get(relay, ()):
                if node.name not in found:
                    rank = (node.via.index(relay), relay)
                    offers[node.name] = min(offers.get(node.name, rank), rank)
        found |= {name: relay for name, (_, relay) in offers.items()}
        layer = list(offers)
    return found


def _place(node: Node) -> str:
    return f"{'nodes' if node.managed else 'counterparts'}.{shown(node.name)}"
