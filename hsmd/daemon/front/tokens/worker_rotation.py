"""The crew: which of a token's ready workers work, which one is the spare, and which leave because they have done their share.

A spare is logged in and knows the keys; it takes the place of a worker that is lost, or that leaves, in the same turn of the
loop. Workers leave after a number of operations or a time, so that what a module leaks or forgets ends with the process. One
leaves at a time; it finishes what it has, and its successor is at work before.
"""

from __future__ import annotations

import random

from hsmd.daemon.front.tokens.worker_channel import WorkerChannel

JITTER = 0.2
"""Workers that were started together leave up to this share of their time earlier."""
UNBOUNDED = 1 << 30


class WorkerRotation:
    """The ready workers of one token. Times are monotonic seconds."""

    def __init__(
        self, size: int, *, spare: bool, operations: int, age_s: float, chance: random.Random
    ) -> None:
        """`size` of them work. They leave after so many operations or seconds; 0 means never.

        With a `spare` nobody leaves before there is one; without, the others or a moment without work must do.
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

    @property
    def ready(self) -> list[WorkerChannel]:
        """Those that work or could."""
        return [*self.working, *self.spares]

    def enlist(self, link: WorkerChannel, now: float) -> None:
        """A worker is ready."""
        share = 1 - JITTER * self._chance.random()
        operations = self._operations * share if self._operations else float("inf")
        self._ends[link] = (operations, now + self._age_s * share if self._age_s else float("inf"))
        self.spares.append(link)
        self._promote()

    def dismiss(self, link: WorkerChannel) -> bool:
        """It is lost, or fit for nothing any more. Was it at work?"""
        self._ends.pop(link, None)
        for group in (self.spares, self.leaving):
            if link in group:
                group.remove(link)
        if link not in self.working:
            return False
        self.working.remove(link)
        self._promote()
        return True

    def relieve(self, now: float) -> None:
        """Have one leave whose time has come, if another can take over or nobody needs it right now."""
        if self.leaving:
            return
        for link in self.working:
            operations, time = self._ends[link]
            due = link.sent >= operations or now >= time
            if due and (self.spares if self._spare else len(self.working) > 1 or not link.jobs):
                self.working.remove(link)
                self.leaving.append(link)
                self._promote()
                return

    def left(self) -> list[WorkerChannel]:
        """Those that leave and have nothing left to do."""
        return [link for link in self.leaving if not (link.jobs or link.unsent)]

    def _promote(self) -> None:
        while self.spares and len(self.working) < self._size:
            self.working.append(self.spares.pop(0))
