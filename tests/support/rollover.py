"""Topologies for tests: from edges, as files, in shapes, and all of a few nodes up to isomorphism."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmd.rollover.plan import Gate, Kind, Order, Plan, task_id
from hsmd.rollover.planner import plan
from hsmd.rollover.problems import PlanRefused
from hsmd.rollover.topology import Authority, Edge, Node, Schedule, Topology, format_time

AUTHORITY = Authority("Example internal CA", datetime(2027, 6, 1, tzinfo=UTC))
SCHEDULE = Schedule(datetime(2027, 3, 1, 8, tzinfo=UTC), datetime(2027, 4, 1, 8, tzinfo=UTC))

Pair = tuple[str, str, bool]
"""Client, server, mutual."""


@cache
def identity(name: str) -> str:
    """The public key of a node, always the same for its name."""
    return node_key(name).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def node_key(name: str) -> Ed25519PrivateKey:
    """The private key of a node."""
    return Ed25519PrivateKey.from_private_bytes(sha256(f"node {name}".encode()).digest())


def topology(
    edges: Iterable[Pair],
    names: Iterable[str] = (),
    *,
    link: bool = True,
    by_hand: Iterable[str] = (),
    nodes: Mapping[str, Node] | None = None,
    schedule: Schedule = SCHEDULE,
) -> Topology:
    """The topology with these edges; nodes are those of the edges, and `names`."""
    edges, by_hand, given = list(edges), set(by_hand), nodes or {}
    every = dict.fromkeys([*names, *(name for edge in edges for name in edge[:2])])
    made = [
        given.get(name) or (Node(name, reason="its owner changes it") if name in by_hand else node(name))
        for name in every
    ]
    authority = replace(AUTHORITY, link=link)
    return Topology.of(authority, schedule, made, [Edge(*edge) for edge in edges])


def node(name: str, *via: str) -> Node:
    """A managed node, reached directly unless `via` is given."""
    return Node(name, identity(name), not via, via)


def as_toml(shown: Topology, order: Sequence[int] = ()) -> str:
    """A topology as a file; `order` permutes its edges."""
    lines = [
        'format = "hsmd.topology/v1"',
        f'[authority]\nname = "{shown.authority.name}"\nends = {format_time(shown.authority.ends)}',
        f"link = {str(shown.authority.link).lower()}",
        f"[schedule]\nstarts = {format_time(shown.schedule.starts)}",
        f"deadline = {format_time(shown.schedule.deadline)}",
        f"clock_skew_s = {shown.schedule.clock_skew_s}\ntask_s = {shown.schedule.task_s}",
    ]
    for each in shown.nodes:
        lines.append(f'[{"nodes" if each.managed else "counterparts"}."{each.name}"]')
        if each.managed:
            via = ", ".join(f'"{relay}"' for relay in each.via)
            lines.append(f'identity = "{each.identity}"\ndirect = {str(each.direct).lower()}\nvia = [{via}]')
        else:
            lines.append(f'reason = "{each.reason}"')
        if each.certificate_ends:
            lines.append(f"certificate_ends = {format_time(each.certificate_ends)}")
    edges = [shown.edges[at] for at in order] if order else shown.edges
    lines += [
        f'[[edges]]\nclient = "{edge.client}"\nserver = "{edge.server}"\nmutual = {str(edge.mutual).lower()}'
        for edge in edges
    ]
    return "\n".join(lines) + "\n"


# --- shapes ---


def star(clients: int, mutual: bool = True) -> list[Pair]:
    """Clients of one server."""
    return [(f"client{at}", "server", mutual) for at in range(1, clients + 1)]


def chain(length: int, mutual: bool = True) -> list[Pair]:
    """Each is a client of the next."""
    return [(f"n{at}", f"n{at + 1}", mutual) for at in range(1, length)]


def ring(length: int, mutual: bool = True) -> list[Pair]:
    """A chain whose last node is a client of the first."""
    return [*chain(length, mutual), (f"n{length}", "n1", mutual)]


def mesh(size: int, mutual: bool = True) -> list[Pair]:
    """Each is a client of each other."""
    return [(f"n{one}", f"n{other}", mutual) for one, other in itertools.permutations(range(1, size + 1), 2)]


def fleet(web: int = 1_900, applications: int = 80, databases: int = 20) -> list[Pair]:
    """Web servers that are clients of two applications each, and applications that are clients of two databases each."""
    edges = [
        (f"web{at:04}", f"app{(at * 7 + turn) % applications:02}", True)
        for at in range(web)
        for turn in range(2)
    ]
    edges += [
        (f"app{at:02}", f"db{(at * 3 + turn) % databases:02}", at % 2 == 0)
        for at in range(applications)
        for turn in range(2)
    ]
    return edges


# --- all topologies ---


def all_topologies(size: int) -> Iterator[list[Pair]]:
    """The edges of every topology of `size` nodes (named a, b, ...), one of each that differ only in names.

    Between two nodes there is no edge, one, or a mutual one, in each direction: 138 for three nodes, 22,815 for four.
    """
    pairs = list(itertools.permutations(range(size), 2))
    place = {pair: at for at, pair in enumerate(pairs)}
    weights = [3 ** (len(pairs) - 1 - at) for at in range(len(pairs))]
    renamings = [
        [weights[place[renamed[one], renamed[other]]] for one, other in pairs]
        for renamed in itertools.permutations(range(size))
    ]
    for number, kinds in enumerate(itertools.product(range(3), repeat=len(pairs))):
        there = [(at, kind) for at, kind in enumerate(kinds) if kind]
        if all(sum(kind * moved[at] for at, kind in there) >= number for moved in renamings):
            yield [("abcd"[pairs[at][0]], "abcd"[pairs[at][1]], kind == 2) for at, kind in there]


def plans_of(shown: Topology) -> Iterator[Plan]:
    """Its plans: split, bundled if that is safe for every node, and mixed if that differs from both."""
    yield plan(shown)
    mixed = plan(shown, Order.MIXED)
    if any(way.order is Order.BUNDLED for way in mixed.ways):
        yield mixed
    with suppress(PlanRefused):
        yield plan(shown, Order.BUNDLED)


def relayed(shown: Topology) -> Topology:
    """The topology with one node of each component reached directly, and all others only through those that they have edges with."""
    around: dict[str, set[str]] = {each.name: set() for each in shown.nodes}
    for edge in shown.edges:
        around[edge.client].add(edge.server)
        around[edge.server].add(edge.client)
    direct: set[str] = set()
    seen: set[str] = set()
    for name in around:
        if name not in seen:
            direct.add(name)
            waiting = [name]
            while waiting:
                if (here := waiting.pop()) not in seen:
                    seen.add(here)
                    waiting += around[here]
    nodes = [
        each if each.name in direct else replace(each, direct=False, via=tuple(sorted(around[each.name])))
        for each in shown.nodes
    ]
    return Topology.of(shown.authority, shown.schedule, nodes, shown.edges)


def is_needed(found: Plan, gate: Gate) -> bool:
    """Whether any task waits for another because of this gate alone, and not also through other gates.

    A node verifies the self-signed certificate with the key that it got with its anchor, so a bundled one never removes the old
    key before it has its certificate, gate or not.
    """
    behind: dict[str, set[str]] = {}
    for task in found.tasks:
        others = {name for other, names in task.gates.items() if other is not gate for name in names}
        if task.kind is Kind.REMOVAL:
            others |= {task_id(Kind.BUNDLE, task.node)} & set(behind)
        behind[task.id] = others.union(*(behind[name] for name in others))
    return any(set(task.gates.get(gate, ())) - behind[task.id] for task in found.tasks)
