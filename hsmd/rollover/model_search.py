"""Breadth-first search through all states of a model; a counterexample is a shortest list of events that leads to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from hsmd.rollover.model import Event, Property

Any_State = TypeVar("Any_State")


class Machine(Protocol[Any_State]):
    """What is searched: a start, what can happen in each state, and what must hold."""

    def start(self) -> Any_State: ...
    def moves(self, state: Any_State) -> Iterator[tuple[Event, Any_State]]: ...
    def broken(self, state: Any_State) -> frozenset[Property]: ...
    def is_done(self, state: Any_State) -> bool: ...
    def words(self, event: Event) -> str: ...


@dataclass(frozen=True, slots=True)
class Findings:
    """What a search found: the number of states; for each property that breaks, the events before that; and, if there is a
    state in which nothing more can happen although the rollover is not done, the events before that."""

    states: int
    broken: Mapping[Property, tuple[str, ...]]
    stuck: tuple[str, ...] | None

    @property
    def fine(self) -> bool:
        """Whether every property holds in every state, and the rollover comes to its end whatever happens."""
        return not self.broken and self.stuck is None


def search(machine: Machine[Any_State]) -> Findings:
    """Visit every state. Each move makes progress, so a model has no loops: what is never stuck is done in the end."""
    start = machine.start()
    came_from: dict[Any_State, tuple[Any_State, Event] | None] = {start: None}
    layer = [start]
    broken: dict[Property, tuple[str, ...]] = {}
    stuck: tuple[str, ...] | None = None
    while layer:
        following = []
        for state in layer:
            for each in machine.broken(state):
                if each not in broken:
                    broken[each] = _events(machine, came_from, state)
            moved = False
            for event, after in machine.moves(state):
                moved = True
                if after not in came_from:
                    came_from[after] = (state, event)
                    following.append(after)
            if not moved and stuck is None and not machine.is_done(state):
                stuck = _events(machine, came_from, state)
        layer = following
    return Findings(len(came_from), broken, stuck)


def _events(
    machine: Machine[Any_State],
    came_from: Mapping[Any_State, tuple[Any_State, Event] | None],
    state: Any_State,
) -> tuple[str, ...]:
    events = []
    while (step := came_from[state]) is not None:
        state, event = step
        events.append(machine.words(event))
    return tuple(reversed(events))
