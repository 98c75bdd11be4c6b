"""A model of a fleet that carries out a plan, against which plans are searched: every interleaving of what can happen.

A task is idle, sent, applied or acknowledged. The network is the set of all messages that were ever sent: one that was lost
is one that is delivered later or never, and one that was delivered may come again, after later ones. A node applies a task
durably and acknowledges it afterwards, so a crash before that leaves it sent, a crash between the two leaves it applied, and
a crash behind them changes nothing; it acknowledges anew when it is asked again. That the controller crashes changes nothing
either: what it sends next follows from the acknowledgements that it has recorded.

The model knows nothing of how a plan was made. Links in chains are counted only where the plan orders them, so the gates of
the split order are shown to hold without any.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

from hsmd.rollover.plan import ANCHORING, SWITCHING, Gate, Kind, Plan


class Property(StrEnum):
    """What must hold in every state; each gate of a plan is there for one of them, and the link for one more."""

    OWN_ANCHOR = "a node that uses its new certificate has the new key, if it verifies any counterpart (R6)"
    SERVER_IS_VERIFIED = "a client verifies the new certificate of its server (R4)"
    CLIENT_IS_VERIFIED = "a server verifies the new certificate of its client, without a link (R5)"
    OWN_CERTIFICATE = "a node that has removed the old key uses its new certificate (order of states)"
    OLD_SERVER_IS_VERIFIED = "a client verifies the old certificate of its server (R3, R8)"
    OLD_CLIENT_IS_VERIFIED = "a server verifies the old certificate of its client (R8)"
    LINK_IS_SENT = "a server verifies the new certificate of its client through the link (R7)"
    REVOCATION_IS_KNOWN = "a node that has to verify a new certificate has a CRL of the new key"
    ACKNOWLEDGED_IS_APPLIED = "what the controller counts as acknowledged is applied"


PROPERTY_OF: dict[Gate, Property] = {
    Gate.OWN_ANCHOR: Property.OWN_ANCHOR,
    Gate.CLIENTS_ANCHORED: Property.SERVER_IS_VERIFIED,
    Gate.SERVERS_ANCHORED: Property.CLIENT_IS_VERIFIED,
    Gate.OWN_CERTIFICATE: Property.OWN_CERTIFICATE,
    Gate.SERVERS_SWITCHED: Property.OLD_SERVER_IS_VERIFIED,
    Gate.CLIENTS_SWITCHED: Property.OLD_CLIENT_IS_VERIFIED,
}
"""What breaks if a gate is missing."""


class Check(NamedTuple):
    """`broken` does not hold in states in which all tasks of `applied` and none of `missing` are applied (sets of bits).

    `nodes` are the node, or the two ends of the edge, that it is about.
    """

    applied: int
    missing: int
    broken: Property
    nodes: tuple[int, ...]


class State(NamedTuple):
    """Sets of tasks as bits: ever sent, applied at their nodes, recorded as acknowledged by the controller."""

    sent: int
    applied: int
    acknowledged: int


Event = tuple[str, int]
"""What happened, and the number of the task or node that it happened to."""
START = State(0, 0, 0)


@dataclass(frozen=True)
class Fleet:
    """The fleet of a plan, and what can happen in it. `without`: gates that the controller does not heed;
    `links`: whether nodes send link certificates where the plan orders it."""

    plan: Plan
    without: Collection[Gate] = ()
    links: bool = True

    # --- the plan as bits ---

    @cached_property
    def bits(self) -> dict[str, int]:
        """The bit of each task."""
        return {task.id: 1 << at for at, task in enumerate(self.plan.tasks)}

    @cached_property
    def everything(self) -> int:
        """All tasks."""
        return (1 << len(self.plan.tasks)) - 1

    @cached_property
    def names(self) -> list[str]:
        """Nodes by their numbers."""
        return [node.name for node in self.plan.topology.nodes]

    @cached_property
    def waits(self) -> list[int]:
        """For each task those that the controller waits for."""
        return [
            sum(
                self.bits[name]
                for name in {
                    each for gate, names in task.gates.items() if gate not in self.without for each in names
                }
            )
            for task in self.plan.tasks
        ]

    @cached_property
    def own(self) -> list[list[int]]:
        """For each node its tasks, in the order in which it carries them out."""
        own: dict[str, list[int]] = {name: [] for name in self.names}
        for task in sorted(self.plan.tasks, key=lambda task: list(Kind).index(task.kind)):
            own[task.node].append(self.bits[task.id])
        return list(own.values())

    @cached_property
    def _needed(self) -> list[int]:
        """For each task what its node has to have: the self-signed certificate is verified with the key from the link."""
        anchors = self._of_kinds(ANCHORING)
        return [anchors[task.node] if task.kind is Kind.REMOVAL else 0 for task in self.plan.tasks]

    def _of_kinds(self, kinds: Collection[Kind]) -> dict[str, int]:
        """For each node its task of one of these kinds, 0 if it has none."""
        found = dict.fromkeys(self.names, 0)
        return found | {task.node: self.bits[task.id] for task in self.plan.tasks if task.kind in kinds}

    @cached_property
    def checks(self) -> list[Check]:
        """All that must hold."""
        anchor, switched, removed = map(self._of_kinds, (ANCHORING, SWITCHING, [Kind.REMOVAL]))
        number = {name: at for at, name in enumerate(self.names)}
        found = []
        for name, at in number.items():
            if anchor[name] and switched[name]:
                found.append(Check(switched[name], anchor[name], Property.OWN_ANCHOR, (at,)))
                found.append(Check(removed[name], switched[name], Property.OWN_CERTIFICATE, (at,)))
        for edge in self.plan.topology.edges:
            client, server, ends = edge.client, edge.server, (number[edge.client], number[edge.server])
            found += [
                Check(switched[server], anchor[client], Property.SERVER_IS_VERIFIED, ends),
                Check(removed[client], switched[server], Property.OLD_SERVER_IS_VERIFIED, ends),
            ]
            if edge.mutual:
                found += [
                    *self._client_checks(switched[client], anchor[server], removed[server], client, ends),
                    Check(removed[server], switched[client], Property.OLD_CLIENT_IS_VERIFIED, ends),
                ]
        return [check for check in found if check.applied & check.missing == 0]

    def _client_checks(
        self, switched: int, anchor: int, removed: int, client: str, ends: tuple[int, int]
    ) -> list[Check]:
        """When a server cannot verify the new certificate of its client."""
        task = next(task for task in self.plan.tasks if self.bits[task.id] == switched)
        server = self.names[ends[1]]
        if f"{Kind.REMOVAL.value}:{server}" not in task.link_until:
            return [Check(switched, anchor, Property.CLIENT_IS_VERIFIED, ends)]
        if self.links:  # then the old key is enough, and it is there until it is removed
            return [Check(switched | removed, anchor, Property.LINK_IS_SENT, ends)]
        return [Check(switched, anchor, Property.LINK_IS_SENT, ends)]

    # --- what happens ---

    def start(self) -> State:
        """The state before anything is sent."""
        return START

    def moves(self, state: State) -> Iterator[tuple[Event, State]]:
        """All that can happen next and changes the state."""
        sent, applied, acknowledged = state
        for at, waits in enumerate(self.waits):
            bit = 1 << at
            if not sent & bit:
                if acknowledged & waits == waits:
                    yield ("send", at), State(sent | bit, applied, acknowledged)
            elif not applied & bit:
                if self.accepts(at, applied):
                    yield ("deliver", at), State(sent, applied | bit, acknowledged)
            elif not acknowledged & bit and self.acknowledges(at, applied):
                yield ("acknowledge", at), State(sent, applied, acknowledged | bit)

    def accepts(self, at: int, applied: int) -> bool:
        """Whether the node of a task carries it out when its message arrives."""
        needed = self._needed[at]
        return applied & needed == needed

    def acknowledges(self, at: int, applied: int) -> bool:
        """Whether an acknowledgement of a task that is applied can reach the controller."""
        return True

    def broken(self, state: State) -> frozenset[Property]:
        """The properties that do not hold."""
        return self.broken_by(state.applied)

    def broken_by(self, applied: int, exempt: int = -1) -> frozenset[Property]:
        """The properties that do not hold once these tasks are applied. Edges of the node `exempt` do not count."""
        if (found := self._known.get((applied, exempt))) is None:
            found = frozenset(
                check.broken
                for check in self.checks
                if applied & check.applied == check.applied
                and not applied & check.missing
                and not (len(check.nodes) == 2 and exempt in check.nodes)
            )
            self._known[applied, exempt] = found
        return found

    @cached_property
    def _known(self) -> dict[tuple[int, int], frozenset[Property]]:
        return {}

    def is_done(self, state: State) -> bool:
        """Whether every task is acknowledged."""
        return state.acknowledged == self.everything

    def words(self, event: Event) -> str:
        """An event in words: `deliver A:web1`."""
        what, at = event
        return f"{what} {self.plan.tasks[at].id}"
