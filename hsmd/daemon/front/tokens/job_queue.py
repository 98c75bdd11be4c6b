"""The queue of one token: jobs that wait for a worker, handed out fairly between clients, and between each client's keys.

Fair means start-time fair queueing (Goyal, Vin, Cheng 1996): serving a client moves its next turn back by the cost of what was
served. A client that comes back after a pause gets no credit for the pause, and a flood delays only the client that sends it.
Jobs that must have a worker to themselves (`Job.alone`) wait in a queue of their own, in order.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

from hsmd.daemon.front.tokens.jobs import LONG_BYTES, Completion, Job, Status
from hsmd.daemon.front.tokens.worker_channel import WorkerChannel
from hsmd.errors import DeadlineExceeded, HsmdError

ACTIVE_S = 1.0
"""A client counts as active for this long after its last job."""
SHARED_WINDOW = 8
"""Jobs that a worker holds while several clients are active: what waits behind them is still handed out fairly.

A job with long data counts as several, one more for each LONG_BYTES.
"""
_NO_LIMIT = 1 << 62
_MANY = 1_000
"""Names whose next turn is remembered at most while they do not wait."""

T = TypeVar("T", bound=Hashable)


class FairQueue(Generic[T]):
    """Names that wait for a turn, each at most once."""

    __slots__ = ("_clock", "_heap", "_next_start", "_order")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._next_start: dict[T, float] = {}  # of names that do not wait at the moment
        self._clock = 0.0
        self._order = 0

    def __len__(self) -> int:
        return len(self._heap)

    def enter(self, name: T) -> None:
        """Add a name that does not wait yet."""
        start = self._next_start.get(name, 0.0)
        if start < self._clock:
            start = self._clock
        self._order += 1
        heapq.heappush(self._heap, (start, self._order, name))

    def next(self) -> T:
        """The name whose turn it is. The queue must not be empty."""
        return self._heap[0][2]

    def served(self, cost: float, *, more: bool) -> None:
        """Charge `cost` to the next name and end its turn; with `more` it waits for another one."""
        start, _, name = self._heap[0]
        self._clock = start
        if more:
            self._order += 1
            heapq.heapreplace(self._heap, (start + cost, self._order, name))
            return
        heapq.heappop(self._heap)
        if len(self._next_start) >= _MANY:
            self._next_start = {each: when for each, when in self._next_start.items() if when > start}
        self._next_start[name] = start + cost


class _ClientQueue:
    """The jobs of one client: a queue for each key, taken in fair turns."""

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
        """The job whose turn it is; None if there is none left. Jobs that were given up are not charged a turn."""
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
        """Drop the jobs that are not wanted; returns how many. `take` removes a queue that this leaves empty."""
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
    """All jobs of one token that wait. `report` takes completions of jobs that left the queue without reaching a worker."""

    def __init__(self, report: Callable[[list[Completion]], None]) -> None:
        self.size = 0
        """Jobs that wait; a job that was given up counts until its turn comes."""
        self._report = report
        self._clients: dict[str, _ClientQueue] = {}
        self._turns: FairQueue[str] = FairQueue()
        self._alone: deque[Job] = deque()
        self._last_id = 1
        self._active: dict[str, float] = {}
        self._pruned_at = 0.0

    # --- clients ---

    def note_active(self, client: str, now: float) -> int:
        """Note that a client has asked for something; returns how many clients are active."""
        self._active[client] = now
        return len(self._active) if self._shared(now) else 1

    def _shared(self, now: float) -> bool:
        """Whether more than one client is active."""
        if len(self._active) > 1 and now - self._pruned_at > ACTIVE_S / 4:
            self._pruned_at = now
            self._active = {client: seen for client, seen in self._active.items() if now - seen <= ACTIVE_S}
        return len(self._active) > 1

    def waiting(self, client: str) -> tuple[int, float, int]:
        """How many jobs of a client wait, what they cost together, and how many clients wait."""
        queue = self._clients.get(client)
        clients = len(self._clients)
        return (queue.count, queue.cost, clients) if queue is not None else (0, 0.0, clients)

    # --- jobs in and out ---

    def add(self, job: Job) -> None:
        """Queue a job."""
        job.queued = True
        self.size += 1
        if job.alone:
            self._alone.append(job)
            return
        queue = self._clients.get(job.client)
        if queue is None:
            queue = self._clients[job.client] = _ClientQueue()
            self._turns.enter(job.client)
        queue.add(job)

    def hand_out(self, workers: list[WorkerChannel], window: int, now: float) -> None:
        """Fill the workers up to `window` jobs each, the least busy one first, with one write to each."""
        long_bytes = _NO_LIMIT
        if self._shared(now):
            window, long_bytes = min(window, SHARED_WINDOW), LONG_BYTES
        if self._alone:
            self._hand_out_alone(workers, now)
        batches: dict[WorkerChannel, list[tuple[int, Job]]] = {}
        loads = {worker: len(worker.jobs) for worker in workers if not worker.alone}
        if long_bytes is LONG_BYTES:
            for worker in loads:
                loads[worker] += sum([len(job.body[3]) // LONG_BYTES for job in worker.jobs.values()])
        while self.size > len(self._alone) and loads:
            worker = min(loads, key=loads.__getitem__) if len(loads) > 1 else next(iter(loads))
            if loads[worker] >= window:
                break
            job = self._take()
            if job is not None and self._wanted(job, now):
                loads[worker] += 1 + len(job.body[3]) // long_bytes
                self._last_id += 1
                batches.setdefault(worker, []).append((self._last_id, job))
        for worker, batch in batches.items():
            worker.send_jobs(batch, now)

    def _take(self) -> Job | None:
        """The job of the client whose turn it is; None if that client has none left."""
        client = self._turns.next()
        queue = self._clients[client]
        job = queue.take()
        if not queue.count:
            del self._clients[client]
        self._turns.served(job.cost if job is not None and job.queued else 0.0, more=queue.count > 0)
        if job is not None:
            self.size -= 1
        return job

    def _hand_out_alone(self, workers: list[WorkerChannel], now: float) -> None:
        """Give a job to each idle worker; if none is idle, reserve the least busy one, which gets nothing else until then."""
        for worker in sorted(workers, key=lambda worker: len(worker.jobs)):
            if worker.jobs:
                reserved = any(other.alone and not other.has_alone_job for other in workers)
                worker.alone = worker.alone or not reserved
                continue
            job = None
            while self._alone and job is None:
                first = self._alone.popleft()
                self.size -= 1
                job = first if self._wanted(first, now) else None
            if job is None:
                break
            worker.alone = True
            self._last_id += 1
            worker.send_jobs([(self._last_id, job)], now)
        if not self._alone:
            for worker in workers:
                worker.alone = worker.has_alone_job

    # --- jobs that are given up ---

    def sweep(self, now: float) -> float:
        """Drop what has expired; returns the earliest deadline left, infinity if there is none."""
        for queue in self._clients.values():
            self.size -= queue.keep(lambda job: self._wanted(job, now))
        kept = deque(job for job in self._alone if self._wanted(job, now))
        self.size -= len(self._alone) - len(kept)
        self._alone = kept
        return min((job.deadline for job in self._all()), default=float("inf"))

    def clear(self, status: Status, error: HsmdError) -> None:
        """Complete everything that waits with this status and error."""
        waiting = [job for job in self._all() if job.queued]
        self._clients.clear()
        self._turns = FairQueue()
        self._alone.clear()
        self.size = 0
        for job in waiting:
            job.queued = False
        if waiting:
            self._report([Completion(job, status, error=error) for job in waiting])

    def _all(self) -> Iterator[Job]:
        for client in self._clients.values():
            for queue in client.queues.values():
                yield from queue
        yield from self._alone

    def _wanted(self, job: Job, now: float) -> bool:
        """Whether a job may still be handed out; one that has expired is reported."""
        if job.queued and job.deadline <= now:
            job.queued = False
            self._report([Completion(job, Status.NOT_PERFORMED, error=DeadlineExceeded())])
        return job.queued
