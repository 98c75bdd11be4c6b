"""The backlog: jobs that wait for a worker. Clients take turns, and so do the keys of each client; no flood holds up another.

Jobs that want to be alone wait apart from the others, in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from hsmd.daemon.front.tokens.fair_queue import FairQueue
from hsmd.daemon.front.tokens.jobs import Completion, Job, Status
from hsmd.daemon.front.tokens.worker_channel import WorkerChannel
from hsmd.errors import DeadlineExceeded, HsmdError


class _Lane:
    """What one client waits for: a queue for each key."""

    __slots__ = ("cost", "count", "queues", "turns")

    def __init__(self) -> None:
        self.queues: dict[bytes, deque[Job]] = {}
        self.turns: FairQueue[bytes] = FairQueue()
        self.count = 0
        self.cost = 0.0

    def add(self, job: Job) -> None:
        key = job.body[2]
        queue = self.queues.get(key)
        if queue is None:
            queue = self.queues[key] = deque()
            self.turns.enter(key)
        queue.append(job)
        self.count += 1
        self.cost += job.cost

    def take(self) -> Job | None:
        """The job whose turn it is; None if there is none left. Those given up meanwhile use up no turn."""
        while self.turns:
            key = self.turns.next()
            queue = self.queues[key]
            job = queue.popleft() if queue else None
            if not queue:
                del self.queues[key]
            self.turns.served(job.cost if job is not None and job.queued else 0.0, more=bool(queue))
            if job is not None:
                self.count -= 1
                self.cost -= job.cost
                return job
        return None

    def keep(self, wanted: Callable[[Job], bool]) -> int:
        """Drop the jobs that are not wanted any more; how many those were. An empty queue is gone at its next turn."""
        before = self.count
        for queue in self.queues.values():
            kept = [job for job in queue if wanted(job)]
            if len(kept) < len(queue):
                queue.clear()
                queue.extend(kept)
        self.count = sum(len(queue) for queue in self.queues.values())
        self.cost = sum(job.cost for queue in self.queues.values() for job in queue)
        return before - self.count


class JobQueue:
    """A fair queue that knows deadlines. `report` takes completions of jobs that left it without reaching a worker."""

    def __init__(self, report: Callable[[list[Completion]], None]) -> None:
        self._report = report
        self._lanes: dict[str, _Lane] = {}
        self._turns: FairQueue[str] = FairQueue()
        self._count = 0
        self._alone: deque[Job] = deque()

    def __len__(self) -> int:
        """How many wait; those given up meanwhile count until their turn comes."""
        return self._count + len(self._alone)

    @property
    def clients(self) -> int:
        """How many clients wait."""
        return len(self._lanes)

    def waiting(self, client: str) -> tuple[int, float]:
        """How many jobs of a client wait, and what they cost together."""
        lane = self._lanes.get(client)
        return (lane.count, lane.cost) if lane is not None else (0, 0.0)

    def add(self, job: Job) -> None:
        """Queue a job."""
        job.queued = True
        if job.alone:
            self._alone.append(job)
            return
        lane = self._lanes.get(job.client)
        if lane is None:
            lane = self._lanes[job.client] = _Lane()
            self._turns.enter(job.client)
        lane.add(job)
        self._count += 1

    def hand_out(
        self, links: list[WorkerChannel], window: int, now: float, take_id: Callable[[], int]
    ) -> None:
        """Give every worker its share of what waits, in one write each; the least busy one first."""
        if self._alone:
            self._hand_out_alone(links, now, take_id)
        shares: dict[WorkerChannel, list[tuple[int, Job]]] = {}
        loads = {link: len(link.jobs) for link in links if not link.alone}
        while self._count and loads:
            link = min(loads, key=loads.__getitem__) if len(loads) > 1 else next(iter(loads))
            if loads[link] >= window:
                break
            job = self._take()
            if job is not None and self._wanted(job, now):
                loads[link] += 1
                shares.setdefault(link, []).append((take_id(), job))
        for link, share in shares.items():
            link.send_jobs(share, now)

    def _take(self) -> Job | None:
        """The job of the client whose turn it is; None if nothing of his was left."""
        client = self._turns.next()
        lane = self._lanes[client]
        job = lane.take()
        if not lane.count:
            del self._lanes[client]
        self._turns.served(job.cost if job is not None and job.queued else 0.0, more=lane.count > 0)
        if job is not None:
            self._count -= 1
        return job

    def _hand_out_alone(self, links: list[WorkerChannel], now: float, take_id: Callable[[], int]) -> None:
        """Such a job waits until the least busy worker has run empty; nothing is added to that worker meanwhile."""
        for link in sorted(links, key=lambda link: len(link.jobs)):
            if link.jobs:
                reserved = any(other.alone and not other.has_alone_job for other in links)
                link.alone = link.alone or not reserved
                continue
            job = None
            while self._alone and job is None:
                first = self._alone.popleft()
                job = first if self._wanted(first, now) else None
            if job is None:
                break
            link.alone = True
            link.send_jobs([(take_id(), job)], now)
        if not self._alone:
            for link in links:
                link.alone = link.has_alone_job

    def sweep(self, now: float) -> float:
        """Drop what has expired; returns the earliest deadline left."""
        for lane in self._lanes.values():
            self._count -= lane.keep(lambda job: self._wanted(job, now))
        self._alone = deque(job for job in self._alone if self._wanted(job, now))
        return min((job.deadline for job in self._all()), default=float("inf"))

    def clear(self, status: Status, error: HsmdError) -> None:
        """Give up everything that waits."""
        waiting = [job for job in self._all() if job.queued]
        self._lanes.clear()
        self._turns = FairQueue()
        self._count = 0
        self._alone.clear()
        for job in waiting:
            job.queued = False
        if waiting:
            self._report([Completion(job, status, error=error) for job in waiting])

    def _all(self) -> Iterator[Job]:
        for lane in self._lanes.values():
            for queue in lane.queues.values():
                yield from queue
        yield from self._alone

    def _wanted(self, job: Job, now: float) -> bool:
        if job.queued and job.deadline <= now:
            job.queued = False
            self._report([Completion(job, Status.NOT_PERFORMED, error=DeadlineExceeded())])
        return job.queued
