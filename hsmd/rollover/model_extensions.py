"""Models with more in them: relays that messages pass, revocation lists, and a node that is restored from a backup."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from hsmd.rollover.model import START, Check, Event, Fleet, Property, State
from hsmd.rollover.plan import ANCHORING, SWITCHING, Kind


@dataclass(frozen=True)
class Relayed(Fleet):
    """Messages and acknowledgements of a node pass its relays, and each hop only while an edge between the two ends works.

    A relay that loses what it stores is a message that is lost.
    """

    @cached_property
    def _number(self) -> dict[str, int]:
        return {name: at for at, name in enumerate(self.names)}

    @cached_property
    def _edge_checks(self) -> dict[tuple[int, int], list[Check]]:
        """The checks of each edge, by client and server."""
        found: dict[tuple[int, int], list[Check]] = {
            (self._number[edge.client], self._number[edge.server]): [] for edge in self.plan.topology.edges
        }
        for check in self.checks:
            if len(check.nodes) == 2:
                found[check.nodes[0], check.nodes[1]].append(check)
        return found

    def accepts(self, at: int, applied: int) -> bool:
        """Only what arrives is carried out."""
        return super().accepts(at, applied) and self._reaches(at, applied)

    def acknowledges(self, at: int, applied: int) -> bool:
        """Acknowledgements travel the same ways."""
        return self._reaches(at, applied)

    def _reaches(self, at: int, applied: int) -> bool:
        return self._number[self.plan.tasks[at].node] in self._reached(applied)

    def _reached(self, applied: int) -> set[int]:
        """The nodes that the controller reaches."""
        if (found := self._ways.get(applied)) is not None:
            return found
        nodes = self.plan.topology.nodes
        reached = {self._number[node.name] for node in nodes if node.direct}
        grows = True
        while grows:
            more = {
                self._number[node.name]
                for node in nodes
                if any(
                    (relay := self._number[name]) in reached
                    and self._works(relay, self._number[node.name], applied)
                    for name in node.via
                )
            }
            grows = not more <= reached
            reached |= more
        self._ways[applied] = reached
        return reached

    @cached_property
    def _ways(self) -> dict[int, set[int]]:
        return {}

    def _works(self, one: int, other: int, applied: int) -> bool:
        """Whether a handshake succeeds on an edge between two nodes."""
        return any(
            all(applied & check.applied != check.applied or applied & check.missing for check in checks)
            for pair in ((one, other), (other, one))
            if (checks := self._edge_checks.get(pair)) is not None
        )


@dataclass(frozen=True)
class WithRevocation(Fleet):
    """Nodes that verify new certificates need a revocation list of the new key, which arrives on its own and may be late.

    A node acknowledges its anchor once it has the list, unless `hasty`. The bits behind those of the tasks are the lists.
    """

    hasty: bool = False

    @cached_property
    def _lists(self) -> dict[str, int]:
        """For each node that verifies the bit of its list."""
        first = len(self.plan.tasks)
        verifying = [task.node for task in self.plan.tasks if task.kind in ANCHORING]
        return {name: 1 << (first + at) for at, name in enumerate(verifying)}

    @cached_property
    def _acknowledged_with(self) -> list[int]:
        return [
            self._lists[task.node] if task.kind in ANCHORING and not self.hasty else 0
            for task in self.plan.tasks
        ]

    @cached_property
    def checks(self) -> list[Check]:
        """As without lists; and a list wherever a new certificate has to be verified."""
        switched = self._of_kinds(SWITCHING)
        number = {name: at for at, name in enumerate(self.names)}
        found = []
        for edge in self.plan.topology.edges:
            for verifier, subject, is_seen in (
                (edge.client, edge.server, True),
                (edge.server, edge.client, edge.mutual and not self._linked(edge.client, edge.server)),
            ):
                if is_seen:
                    ends = (number[edge.client], number[edge.server])
                    found.append(
                        Check(switched[subject], self._lists[verifier], Property.REVOCATION_IS_KNOWN, ends)
                    )
        return [*super().checks, *found]

    def _linked(self, client: str, server: str) -> bool:
        """Whether the server may meet the new certificate before it has the new key: lists of the old key are all it has."""
        task = next(task for task in self.plan.tasks if task.kind in SWITCHING and task.node == client)
        return f"{Kind.REMOVAL.value}:{server}" in task.link_until

    def moves(self, state: State) -> Iterator[tuple[Event, State]]:
        """As without lists; and a list arrives once the anchor was sent."""
        yield from super().moves(state)
        for at, task in enumerate(self.plan.tasks):
            if task.kind in ANCHORING and state.sent & (1 << at):
                bit = self._lists[task.node]
                if not state.applied & bit:
                    yield ("list for", at), state._replace(applied=state.applied | bit)

    def acknowledges(self, at: int, applied: int) -> bool:
        """An anchor is in effect once the list is there."""
        needed = self._acknowledged_with[at]
        return applied & needed == needed


class Restorable(NamedTuple):
    """A state in which the node number `who` was restored from a backup, -1 for none yet.

    `lost` is what it had applied before, and what acknowledgements that are still on their way say; `told`: whether it has
    told the controller what it has now; `behind`: whether it has not carried all of it out again.
    """

    base: State
    who: int = -1
    lost: int = 0
    told: bool = False
    behind: bool = False


@dataclass(frozen=True)
class WithRestore(Fleet):
    """Once, at any time, a node is restored from a backup that has fewer of its tasks, and reports what it has.

    `heeded`: the controller takes back what the report does not have. `fresh`: it ignores acknowledgements from before the
    report. `ordered`: a node carries out a task only from the state that the task is about. Until the node has caught up,
    its own edges may fail; no plan can prevent that.
    """

    heeded: bool = True
    fresh: bool = True
    ordered: bool = True

    def start(self) -> Restorable:  # type: ignore[override]
        """The state before anything is sent."""
        return Restorable(START)

    def moves(self, state: Restorable) -> Iterator[tuple[Event, Restorable]]:  # type: ignore[override]
        """As without restores; then the restore, the report, and late acknowledgements."""
        for event, after in super().moves(state.base):
            yield event, self._caught_up(state._replace(base=after))
        if state.who < 0:
            yield from self._restores(state)
            return
        if not state.told:
            yield ("report of", state.who), self._caught_up(self._reported(state))
        if not state.told or not self.fresh:
            late = state.lost & ~state.base.acknowledged
            for at in range(len(self.plan.tasks)):
                if late & (1 << at):
                    counted = state.base._replace(acknowledged=state.base.acknowledged | 1 << at)
                    yield ("late acknowledgement of", at), state._replace(base=counted)

    def _restores(self, state: Restorable) -> Iterator[tuple[Event, Restorable]]:
        for who, own in enumerate(self.own):
            had = sum(bit for bit in own if bit & state.base.applied)
            for kept in range(len(own)):
                keeps = sum(own[:kept]) & had
                if keeps != had and own[kept] & had:
                    base = state.base._replace(applied=state.base.applied & ~had | keeps)
                    yield ("restore", who), Restorable(base, who, had, False, True)

    def _reported(self, state: Restorable) -> Restorable:
        base = state.base
        missing = state.lost & ~base.applied
        if self.heeded:
            base = base._replace(acknowledged=base.acknowledged & ~missing)
        return state._replace(base=base, told=True)

    @staticmethod
    def _caught_up(state: Restorable) -> Restorable:
        """The state, no longer behind once the node has all that it had, and has told so."""
        if state.behind and state.told and state.base.applied & state.lost == state.lost:
            return state._replace(behind=False)
        return state

    @cached_property
    def _before(self) -> list[tuple[int, int]]:
        """For each task the tasks of its node, and those of them that have to be applied when it is carried out."""
        own = {bit: (sum(bits), sum(bits[:at])) for bits in self.own for at, bit in enumerate(bits)}
        return [own[1 << at] for at in range(len(self.plan.tasks))]

    def accepts(self, at: int, applied: int) -> bool:
        """A task is carried out from the state before it only."""
        every, before = self._before[at]
        return applied & every == before if self.ordered else super().accepts(at, applied)

    def broken(self, state: Restorable) -> frozenset[Property]:  # type: ignore[override]
        """As without restores, without the edges of a node that is behind."""
        found = self.broken_by(state.base.applied, state.who if state.behind else -1)
        counted = state.base.acknowledged & ~state.base.applied
        if state.who >= 0 and not state.told:
            counted &= ~sum(self.own[state.who])
        return found | {Property.ACKNOWLEDGED_IS_APPLIED} if counted else found

    def is_done(self, state: Restorable) -> bool:  # type: ignore[override]
        """Whether every task is applied and acknowledged."""
        return state.base.acknowledged == state.base.applied == self.everything

    def words(self, event: Event) -> str:
        """An event in words."""
        what, at = event
        return f"{what} {self.names[at]}" if what in ("restore", "report of") else super().words(event)
