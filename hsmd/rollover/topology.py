"""The topology of a fleet: which node authenticates which, how each is reached, and the dates that bound a rollover.

Values here are well formed one by one; `hsmd.rollover.consistency` says whether they fit together, and
`hsmd.rollover.topology_file` reads them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from hashlib import sha256

from hsmd.envelopes import canonical_json

FORMAT = "hsmd.topology/v1"
MAX_NODES = 10_000
"""Nodes and counterparts together."""
MAX_EDGES = 100_000
MAX_VIA = 16
"""Relays that a node may be reached through."""
MAX_RELAYS = 16
"""On the way to a node. Without a limit, the ways of a chain of relays grow with the square of its length."""
MAX_TEXT_CHARACTERS = 200
"""Of the name of an authority, and of a reason."""
MAX_CLOCK_SKEW_S = 86_400
MIN_TASK_S, MAX_TASK_S = 1, 31_536_000
DEFAULT_CLOCK_SKEW_S = 300
DEFAULT_TASK_S = 3_600
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}\Z")
"""Names of nodes are those of clients of a daemon."""


@dataclass(frozen=True, slots=True)
class Authority:
    """The authority whose key is replaced. `ends` is when the certificate of its present key ends.

    With `link`, nodes may send the new key's certificate by the old key in their chains, and their peers verify through it.
    """

    name: str
    ends: datetime
    link: bool = True


@dataclass(frozen=True, slots=True)
class Schedule:
    """When the rollover starts and is to be done. `clock_skew_s` is how far clocks of the fleet may be apart, `task_s` how
    many seconds the plan has to leave for each task."""

    starts: datetime
    deadline: datetime
    clock_skew_s: int = DEFAULT_CLOCK_SKEW_S
    task_s: int = DEFAULT_TASK_S


@dataclass(frozen=True, slots=True)
class Node:
    """A TLS server, a client, or both; or a counterpart that is changed by hand, which has a `reason` and no `identity`.

    `identity` is the OpenSSH public key, type and base64, that signs its acknowledgements. With `direct`, the controller
    reaches it over the management link; `via` are nodes that can relay, the preferred one first.
    """

    name: str
    identity: str = ""
    direct: bool = True
    via: tuple[str, ...] = ()
    certificate_ends: datetime | None = None
    reason: str = ""

    @property
    def managed(self) -> bool:
        """Whether a program of ours carries out its tasks."""
        return not self.reason


@dataclass(frozen=True, slots=True, order=True)
class Edge:
    """`client` connects to `server` and verifies its certificate; if `mutual`, the server verifies the client's, too."""

    client: str
    server: str
    mutual: bool

    @property
    def label(self) -> str:
        """The edge in words."""
        return f"{self.client} -> {self.server}"


@dataclass(frozen=True)
class Topology:
    """Nodes by name and edges, both in order, whatever the order of the file was: equal topologies have equal digests."""

    authority: Authority
    schedule: Schedule
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    @classmethod
    def of(
        cls, authority: Authority, schedule: Schedule, nodes: Iterable[Node], edges: Iterable[Edge]
    ) -> Topology:
        """The topology with nodes and edges put in order."""
        by_name = sorted(nodes, key=lambda node: node.name)
        return cls(authority, schedule, tuple(by_name), tuple(sorted(edges)))

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        """Nodes and counterparts by name."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def document(self) -> dict[str, object]:
        """The topology as the members of its file, defaults written out."""
        return {
            "format": FORMAT,
            "authority": {
                "name": self.authority.name,
                "ends": format_time(self.authority.ends),
                "link": self.authority.link,
            },
            "schedule": {
                "starts": format_time(self.schedule.starts),
                "deadline": format_time(self.schedule.deadline),
                "clock_skew_s": self.schedule.clock_skew_s,
                "task_s": self.schedule.task_s,
            },
            "nodes": {node.name: _node_members(node) for node in self.nodes if node.managed},
            "counterparts": {node.name: _node_members(node) for node in self.nodes if not node.managed},
            "edges": [
                {"client": edge.client, "server": edge.server, "mutual": edge.mutual} for edge in self.edges
            ],
        }

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON (RFC 8785) of `document`, 64 hexadecimal digits."""
        return sha256(canonical_json.encode(self.document)).hexdigest()


def format_time(moment: datetime) -> str:
    """An aware time in UTC with whole seconds: `2027-03-01T00:00:00Z`."""
    return moment.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def _node_members(node: Node) -> dict[str, object]:
    ends = {"certificate_ends": format_time(node.certificate_ends)} if node.certificate_ends else {}
    if not node.managed:
        return {"reason": node.reason, **ends}
    return {"identity": node.identity, "direct": node.direct, "via": list(node.via), **ends}
