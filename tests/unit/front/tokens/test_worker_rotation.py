"""Worker rotation: no more workers than configured, spares follow at once, and none is retired without a successor."""

from __future__ import annotations

import random
from typing import Any, cast

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hsmd.daemon.front.tokens.worker_rotation import WorkerRotation

SIZE, OPERATIONS, AGE_S = 2, 10, 100.0


class Worker:
    """What the rotation uses of a worker."""

    def __init__(self) -> None:
        self.sent = 0
        self.jobs: dict[int, object] = {}
        self.unsent = b""


class Rotations(RuleBasedStateMachine):
    """Workers start, receive jobs, are lost and reach their age limit, in any order."""

    spare = True

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.rotation = WorkerRotation(
            SIZE, spare=self.spare, operations=OPERATIONS, age_s=AGE_S, chance=random.Random(1)
        )
        self.alive: list[Any] = []

    @precondition(lambda self: len(self.alive) < SIZE + 2)
    @rule()
    def one_gets_ready(self) -> None:
        worker: Any = Worker()
        self.alive.append(worker)
        self.rotation.add(worker, self.now)

    @precondition(lambda self: self.rotation.working)
    @rule(which=st.integers(0, SIZE - 1), jobs=st.integers(1, 12))
    def one_gets_jobs(self, which: int, jobs: int) -> None:
        worker: Any = self.rotation.working[which % len(self.rotation.working)]
        worker.sent += jobs
        worker.jobs = {worker.sent: None}

    @precondition(lambda self: self.alive)
    @rule(which=st.integers(0, 9))
    def one_answers(self, which: int) -> None:
        self.alive[which % len(self.alive)].jobs = {}

    @precondition(lambda self: self.alive)
    @rule(which=st.integers(0, 9))
    def one_is_lost(self, which: int) -> None:
        worker = self.alive.pop(which % len(self.alive))
        at_work = worker in self.rotation.working
        assert self.rotation.remove(worker) is at_work

    @precondition(lambda self: self.rotation.ready and not self.rotation.aside)
    @rule(which=st.integers(0, 9))
    def one_is_set_aside(self, which: int) -> None:
        self.rotation.set_aside(self.rotation.ready[which % len(self.rotation.ready)])

    @precondition(lambda self: self.alive)
    @rule(which=st.integers(0, 9))
    def one_is_taken_back(self, which: int) -> None:
        worker = self.alive[which % len(self.alive)]
        self.rotation.take_back(worker)
        assert worker not in self.rotation.aside

    @rule(seconds=st.integers(0, 60))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        before = list(self.rotation.working)
        self.rotation.retire_due(self.now)
        for worker in before:
            if worker not in self.rotation.working:
                assert self.rotation.working or not (worker.jobs or self.spare), (
                    "requests would wait for a worker to start"
                )
                assert not self.spare or len(self.rotation.working) == len(before), (
                    "no worker succeeded the retired one"
                )

    @rule()
    def those_that_are_done_leave(self) -> None:
        for worker in self.rotation.left():
            assert not worker.jobs
            self.rotation.remove(worker)
            self.alive.remove(worker)

    @invariant()
    def places_are_filled(self) -> None:
        rotation = self.rotation
        assert sorted(map(id, [*rotation.ready, *rotation.leaving])) == sorted(map(id, self.alive))
        assert len(rotation.working) == min(SIZE, len(rotation.ready) - len(rotation.aside))
        assert rotation.working or not rotation.ready, "jobs would wait although there is a worker"
        assert len(rotation.leaving) <= 1


class RotationsWithoutSpare(Rotations):
    spare = False


TestRotations, TestRotationsWithoutSpare = Rotations.TestCase, RotationsWithoutSpare.TestCase
TestRotations.settings = TestRotationsWithoutSpare.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None
)


def test_workers_that_started_together_are_not_retired_together() -> None:
    rotation = WorkerRotation(8, spare=True, operations=0, age_s=1000.0, chance=random.Random(3))
    for _ in range(9):
        rotation.add(Worker(), 0.0)  # type: ignore[arg-type]
    left: dict[int, int] = {}
    for now in range(0, 1001, 10):
        rotation.retire_due(float(now))
        for worker in rotation.left():
            rotation.remove(worker)
            rotation.add(Worker(), 1e9)  # type: ignore[arg-type]
            left[now] = left.get(now, 0) + 1
    assert sum(left.values()) >= 8
    assert min(left) >= 800
    assert max(left.values()) == 1


def test_zero_disables_retirement() -> None:
    rotation = WorkerRotation(1, spare=True, operations=0, age_s=0, chance=random.Random(3))
    worker: Any = Worker()
    rotation.add(worker, 0.0)
    rotation.add(Worker(), 0.0)  # type: ignore[arg-type]
    worker.sent = 1 << 50
    rotation.retire_due(1e12)
    assert rotation.working == [worker]


def test_the_last_worker_is_never_set_aside() -> None:
    rotation = WorkerRotation(2, spare=True, operations=0, age_s=0, chance=random.Random(3))
    first: Any = Worker()
    second: Any = Worker()
    rotation.add(first, 0.0)
    rotation.set_aside(first)
    assert rotation.working == [first]
    rotation.add(second, 0.0)
    rotation.set_aside(first)
    assert (rotation.working, rotation.aside) == ([second], [first])
    rotation.remove(second)
    assert rotation.working == [first], "it is needed again"


def test_a_spare_that_is_set_aside_takes_the_place_of_no_lost_worker() -> None:
    """It looks for keys, and jobs would wait behind its search."""
    rotation = WorkerRotation(2, spare=True, operations=0, age_s=0, chance=random.Random(3))
    first, second, spare = workers = [cast("Any", Worker()) for _ in range(3)]
    for worker in workers:
        rotation.add(worker, 0.0)
    rotation.set_aside(spare)
    assert [rotation.is_spare(worker) for worker in workers] == [False, False, True]
    rotation.remove(first)
    assert not rotation.is_spare(spare), "it is needed"
    assert (rotation.working, rotation.aside) == ([second], [spare])
    rotation.take_back(spare)
    assert rotation.working == [second, spare]
