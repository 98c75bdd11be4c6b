"""The backlog: jobs that wait for a worker, in order, those that want to be alone apart from the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from hsmd.daemon.token.jobs import Completion, Job, Status
from hsmd.daemon.token.link import WorkerLink
from hsmd.errors import DeadlineExceeded, HsmdError


class Backlog:
    """A queue that knows deadlines. `report` takes completions of jobs that left it without reaching a worker."""

    def __init__(self, report: Callable[[list[Completion]], None]) -> None:
        self._report = report
        self._jobs: deque[Job] = deque()
        self._alone: deque[Job] = deque()

    def __len__(self) -> int:
        """How many wait; those given up meanwhile count until their turn comes."""
        return len(self._jobs) + len(self._alone)

    def add(self, job: Job) -> None:
        """Queue a job."""
        job.queued = True
        (self._alone if job.alone else self._jobs).append(job)

    def hand_out(self, links: list[WorkerLink], window: int, now: float, take_id: Callable[[], int]) -> None:
        """Give every worker its share of what waits, in one write each; the least busy one first."""
        if self._alone:
            self._hand_out_alone(links, now, take_id)
        shares: dict[WorkerLink, list[tuple[int, Job]]] = {}
        loads = {link: len(link.jobs) for link in links if not link.alone}
        while self._jobs and loads:
            link = min(loads, key=loads.__getitem__) if len(loads) > 1 else next(iter(loads))
            if loads[link] >= window:
                break
            job = self._next(self._jobs, now)
            if job is not None:
                loads[link] += 1
                shares.setdefault(link, []).append((take_id(), job))
        for link, share in shares.items():
            link.send_jobs(share, now)

    def _hand_out_alone(self, links: list[WorkerLink], now: float, take_id: Callable[[], int]) -> None:
        """Such a job waits until the least busy worker has run empty; nothing is added to that worker meanwhile."""
        for link in sorted(links, key=lambda link: len(link.jobs)):
            if link.jobs:
                reserved = any(other.alone and not other.has_alone_job for other in links)
                link.alone = link.alone or not reserved
                continue
            job = None
            while self._alone and job is None:
                job = self._next(self._alone, now)
            if job is None:
                break
            link.alone = True
            link.send_jobs([(take_id(), job)], now)
        if not self._alone:
            for link in links:
                link.alone = link.has_alone_job

    def sweep(self, now: float) -> float:
        """Drop what has expired; returns the earliest deadline left."""
        for queue in (self._jobs, self._alone):
            kept = [job for job in queue if self._wanted(job, now)]
            queue.clear()
            queue.extend(kept)
        return min((job.deadline for queue in (self._jobs, self._alone) for job in queue), default=float("inf"))

    def clear(self, status: Status, error: HsmdError) -> None:
        """Give up everything that waits."""
        waiting = [job for job in (*self._jobs, *self._alone) if job.queued]
        self._jobs.clear()
        self._alone.clear()
        for job in waiting:
            job.queued = False
        if waiting:
            self._report([Completion(job, status, error=error) for job in waiting])

    def _next(self, queue: deque[Job], now: float) -> Job | None:
        job = queue.popleft()
        return job if self._wanted(job, now) else None

    def _wanted(self, job: Job, now: float) -> bool:
        if job.queued and job.deadline <= now:
            job.queued = False
            self._report([Completion(job, Status.NOT_PERFORMED, error=DeadlineExceeded())])
        return job.queued
