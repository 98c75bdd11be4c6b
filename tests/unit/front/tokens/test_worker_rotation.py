"""The crew: at most as many work as shall, a spare follows at once, and nobody leaves before there is somebody else."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hsmd.daemon.front.tokens.worker_rotation import WorkerRotation

SIZE, OPERATIONS, AGE_S = 2, 10, 100.0


class Link:
    """A worker, as far as the crew looks at it."""

    def __init__(self) -> None:
        self.sent = 0
        self.jobs: dict[int, object] = {}
        self.unsent = b""


class Crews(RuleBasedStateMachine):
    """Workers come, work, die and grow old, in any order."""

    spare = True

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.crew = WorkerRotation(
            SIZE, spare=self.spare, operations=OPERATIONS, age_s=AGE_S, chance=random.Random(1)
        )
        self.alive: list[Any] = []

    @precondition(lambda self: len(self.alive) < SIZE + 2)
    @rule()
    def one_gets_ready(self) -> None:
        link: Any = Link()
        self.alive.append(link)
        self.crew.add(link, self.now)

    @precondition(lambda self: self.crew.working)
    @rule(which=st.integers(0, SIZE - 1), jobs=st.integers(1, 12))
    def one_gets_jobs(self, which: int, jobs: int) -> None:
        link: Any = self.crew.working[which % len(self.crew.working)]
        link.sent += jobs
        link.jobs = {link.sent: None}

    @precondition(lambda self: self.alive)
    @rule(which=st.integers(0, 9))
    def one_answers(self, which: int) -> None:
        self.alive[which % len(self.alive)].jobs = {}

    @precondition(lambda self: self.alive)
    @rule(which=st.integers(0, 9))
    def one_is_lost(self, which: int) -> None:
        link = self.alive.pop(which % len(self.alive))
        at_work = link in self.crew.working
        assert self.crew.remove(link) is at_work

    @rule(seconds=st.integers(0, 60))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        before = list(self.crew.working)
        self.crew.retire_due(self.now)
        for link in before:
            if link not in self.crew.working:
                assert self.crew.working or not (link.jobs or self.spare), "requests would wait for a start"
                assert not self.spare or len(self.crew.working) == len(before), "somebody took over"

    @rule()
    def those_that_are_done_leave(self) -> None:
        for link in self.crew.left():
            assert not link.jobs
            self.crew.remove(link)
            self.alive.remove(link)

    @invariant()
    def places_are_filled(self) -> None:
        crew = self.crew
        assert sorted(map(id, [*crew.ready, *crew.leaving])) == sorted(map(id, self.alive))
        assert len(crew.working) == min(SIZE, len(crew.ready))
        assert len(crew.leaving) <= 1


class CrewsWithoutSpare(Crews):
    spare = False


TestCrews, TestCrewsWithoutSpare = Crews.TestCase, CrewsWithoutSpare.TestCase
TestCrews.settings = TestCrewsWithoutSpare.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None
)


def test_those_that_began_together_do_not_leave_together() -> None:
    crew = WorkerRotation(8, spare=True, operations=0, age_s=1000.0, chance=random.Random(3))
    for _ in range(9):
        crew.add(Link(), 0.0)  # type: ignore[arg-type]
    left: dict[int, int] = {}
    for now in range(0, 1001, 10):
        crew.retire_due(float(now))
        for link in crew.left():
            crew.remove(link)
            crew.add(Link(), 1e9)  # type: ignore[arg-type]
            left[now] = left.get(now, 0) + 1
    assert sum(left.values()) >= 8
    assert min(left) >= 800
    assert max(left.values()) == 1


def test_zero_means_never() -> None:
    crew = WorkerRotation(1, spare=True, operations=0, age_s=0, chance=random.Random(3))
    link: Any = Link()
    crew.add(link, 0.0)
    crew.add(Link(), 0.0)  # type: ignore[arg-type]
    link.sent = 1 << 50
    crew.retire_due(1e12)
    assert crew.working == [link]
