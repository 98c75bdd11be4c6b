"""Worker rotation: which of a token's ready workers are given jobs, which one is the spare, and which are retired.

A spare is logged in and knows the keys; it replaces a worker that is lost or retired in the same turn of the loop. Workers are
retired after a number of operations or a time, so that what a module leaks or forgets ends with the process. They are retired one
at a time, and not before a successor is working; a retired worker finishes what it has.
"""

from __future__ import annotations

import random

from hsmd.daemon.front.tokens.worker_channel import WorkerChannel

JITTER = 0.2
"""Each worker is retired up to this share of its time earlier, so that those started together are not retired together."""
UNBOUNDED = 1 << 30


class WorkerRotation:
    """The ready workers of one token. Times are monotonic seconds."""

    def __init__(
        self, size: int, *, spare: bool, operations: int, age_s: float, chance: random.Random
    ) -> None:
        """`size` of them are given jobs. They are retired after so many operations or seconds; 0 means never.

        With `spare` a worker is retired only when there is a spare; without, when there is another worker or it is idle.
        """
        self._size = size
        self._spare = spare
        self._operations = operations
        self._age_s = age_s
        self._chance = chance
        self._ends: dict[WorkerChannel, tuple[float, float]] = {}
        self.working: list[WorkerChannel] = []
        self.spares: list[WorkerChannel] = []
        self.leaving: list[WorkerChannel] = []
        self.aside: list[WorkerChannel] = []

    @property
    def ready(self) -> list[WorkerChannel]:
        """The working ones, the spares, and what is set aside."""
        return [*self.working, *self.spares, *self.aside]

    def is_spare(self, worker: WorkerChannel) -> bool:
        """Whether it waits for the place of another one, or would if it were not set aside."""
        return worker in self.spares or (worker in self.aside and len(self.working) >= self._size)

    def add(self, worker: WorkerChannel, now: float) -> None:
        """Add a worker that is ready."""
        share = 1 - JITTER * self._chance.random()
        operations = self._operations * share if self._operations else float("inf")
        self._ends[worker] = (operations, now + self._age_s * share if self._age_s else float("inf"))
        self.spares.append(worker)
        self._promote()

    def remove(self, worker: WorkerChannel) -> bool:
        """Remove a worker, and return whether it was working."""
        self._ends.pop(worker, None)
        for group in (self.spares, self.leaving, self.aside):
            if worker in group:
                group.remove(worker)
        if worker not in self.working:
            return False
        self.working.remove(worker)
        self._promote()
        return True

    def set_aside(self, worker: WorkerChannel) -> None:
        """Give a worker no jobs until `take_back`, if another one is working or can take its place."""
        for group in (self.working, self.spares):
            if worker in group:
                group.remove(worker)
                self.aside.append(worker)
                self._promote()

    def take_back(self, worker: WorkerChannel) -> None:
        """Give one that was set aside jobs again, or make it a spare."""
        if worker in self.aside:
            self.aside.remove(worker)
            self.spares.append(worker)
            self._promote()

    def retire_due(self, now: float) -> None:
        """Retire one worker that has served its time, if another can replace it or it is idle."""
        if self.leaving:
            return
        for worker in self.working:
            operations, time = self._ends[worker]
            due = worker.sent >= operations or now >= time
            if due and (self.spares if self._spare else len(self.working) > 1 or not worker.jobs):
                self.working.remove(worker)
                self.leaving.append(worker)
                self._promote()
                return

    def left(self) -> list[WorkerChannel]:
        """Retired workers that have nothing left to do."""
        return [worker for worker in self.leaving if not (worker.jobs or worker.unsent)]

    def _promote(self) -> None:
        while self.spares and len(self.working) < self._size:
            self.working.append(self.spares.pop(0))
        if self.aside and not self.working:
            self.working.append(self.aside.pop(0))  # better late answers than none
