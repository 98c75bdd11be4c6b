"""Topology files: TOML, as people write them, and canonical JSON, as plans hold them; both are read by the same code.

TOML, because a person writes and reviews the file: it has comments and dates of its own, its faults have lines, and all
other files that people write for hsmd are TOML.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

from hsmd.rollover import topology as limits
from hsmd.rollover.consistency import check
from hsmd.rollover.identities import normal_form
from hsmd.rollover.members import Members
from hsmd.rollover.problems import Faults, TopologyInvalid
from hsmd.rollover.topology import FORMAT, Authority, Edge, Node, Schedule, Topology

MAX_FILE_BYTES = 16 * 1_048_576
"""Room for 10,000 nodes and 100,000 edges, with comments."""
MAX_LINE_CHARACTERS = 1_000
"""The time that TOML takes grows with the square of the length of a dotted key, and a key is in one line."""

MAX_TABLES = limits.MAX_NODES + limits.MAX_EDGES + 2
"""Lines that begin a table. A table takes a hundred times as much memory as its line has bytes."""


def parse(text: str, source: str) -> Topology:
    """The topology in the text of a TOML file. Raises TopologyInvalid, whose faults begin with `source`."""
    if fault := _size_fault(text):
        raise TopologyInvalid(source, [fault])
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as problem:
        raise TopologyInvalid(source, [f"is not TOML: {problem}"]) from None
    return from_document(document, source)


def _size_fault(text: str) -> str:
    """Which limit a text exceeds, decided before it is taken apart; empty if none."""
    if len(text) > MAX_FILE_BYTES:
        return f"has more than {MAX_FILE_BYTES} bytes"
    tables = 0
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > MAX_LINE_CHARACTERS:
            return f"line {number} has more than {MAX_LINE_CHARACTERS} characters; write one entry on a line"
        tables += line.lstrip().startswith("[")
    if tables > MAX_TABLES:
        return f"has {tables} lines that begin with [, and may have {MAX_TABLES}; plan parts of the fleet"
    return ""


def from_document(document: Mapping[str, Any], source: str) -> Topology:
    """The topology with these members. Raises TopologyInvalid."""
    faults = Faults()
    if document.get("format") != FORMAT:
        raise TopologyInvalid(source, [f'format: must be "{FORMAT}", the only one that this release reads'])
    top = Members({name: value for name, value in document.items() if name != "format"}, "", faults)
    authority, schedule = _authority(top.members("authority")), _schedule(top.members("schedule"))
    nodes = [
        *(_node(name, members) for name, members in top.by_name("nodes", limits.MAX_NODES)),
        *(_counterpart(name, members) for name, members in top.by_name("counterparts", limits.MAX_NODES)),
    ]
    edges = [_edge(members) for members in top.objects("edges", limits.MAX_EDGES)]
    top.end()
    if not faults:
        check(nodes, edges, faults)
    if faults:
        raise TopologyInvalid(source, faults.listed())
    return Topology.of(authority, schedule, nodes, edges)


def _authority(members: Members) -> Authority:
    found = Authority(
        members.text("name", limits.MAX_TEXT_CHARACTERS), members.time("ends"), members.flag("link", True)
    )
    members.end()
    return found


def _schedule(members: Members) -> Schedule:
    found = Schedule(
        members.time("starts"),
        members.time("deadline"),
        members.number("clock_skew_s", limits.DEFAULT_CLOCK_SKEW_S, 0, limits.MAX_CLOCK_SKEW_S),
        members.number("task_s", limits.DEFAULT_TASK_S, limits.MIN_TASK_S, limits.MAX_TASK_S),
    )
    members.end()
    return found


def _node(name: str, members: Members) -> Node:
    via = members.strings("via", limits.MAX_VIA)
    found = Node(
        name,
        _identity(members),
        members.flag("direct", not via),
        via,
        members.time_if_given("certificate_ends"),
    )
    members.end()
    return found


def _identity(members: Members) -> str:
    line = members.text("identity", MAX_LINE_CHARACTERS)
    try:
        return normal_form(line) if line else ""
    except ValueError as problem:
        members.fault("identity", str(problem))
        return ""


def _counterpart(name: str, members: Members) -> Node:
    found = Node(
        name,
        reason=members.text("reason", limits.MAX_TEXT_CHARACTERS) or "-",
        certificate_ends=members.time_if_given("certificate_ends"),
    )
    members.end()
    return found


def _edge(members: Members) -> Edge:
    found = Edge(members.text("client", 64), members.text("server", 64), members.flag("mutual"))
    members.end()
    return found
