"""Load shedding: refuses jobs that the queue of a token has no room for, or that would not be served in time.

A single active client may fill the queue; with several, each has an equal share, so that only a client that floods is refused. A
job that could not be served before its deadline is refused at once: queued, it would only delay one that can.
"""

from __future__ import annotations

from dataclasses import dataclass

from hsmd.daemon.front.tokens.job_queue import JobQueue
from hsmd.daemon.front.tokens.jobs import Job
from hsmd.errors import HsmdError, Overloaded

LEAST_SHARE = 64
"""Jobs that each active client may have waiting, however many clients there are."""
RETRY_AFTER_S = 0.100
"""The least time after which a client that has filled its share is told to try again."""
_FASTER, _SLOWER = 0.3, 0.05
_SMOOTHING = 0.1


@dataclass(frozen=True, slots=True)
class Load:
    """The present load of a token: jobs that workers hold, jobs it can take in all, workers that are ready."""

    in_hand: int
    capacity: int
    workers: int


class LoadShedder:
    """Decides batch by batch; learns from the answers how fast the token is."""

    def __init__(self) -> None:
        self._unit_s = 0.0
        self._mean_cost = 1.0

    def refused(
        self, jobs: list[Job], queue: JobQueue, load: Load, now: float
    ) -> list[tuple[Job, HsmdError]]:
        """Those of `jobs` that must not be queued, each with its error."""
        refused: list[tuple[Job, HsmdError]] = []
        room = load.capacity - load.in_hand - queue.size
        for client in dict.fromkeys([job.client for job in jobs]):
            mine = [job for job in jobs if job.client == client]
            share = max(LEAST_SHARE, load.capacity // queue.note_active(client, now))
            waiting, cost, clients = queue.waiting(client)
            ahead_s = self._ahead_s(clients + (waiting == 0), cost, load)
            per_cost_s = self._unit_s * max(1, clients) / max(1, load.workers)
            for job in mine:
                if room <= 0 or waiting >= share:
                    refused.append((job, Overloaded.retry_in(max(RETRY_AFTER_S, ahead_s))))
                elif now + ahead_s > job.deadline:
                    refused.append((job, Overloaded.retry_in(ahead_s)))
                else:
                    room -= 1
                    waiting += 1
                    ahead_s += job.cost * per_cost_s
        return refused

    def served(self, jobs: list[Job], took_s: float) -> None:
        """Learn from `jobs`, which a worker that was busy all the time answered in `took_s` seconds.

        Nothing is learned from a stall. The estimate follows a faster token sooner than a slower one, so that a slow period
        that is over causes no refusals; at first it is 0, because the first use of a token takes longer than those that follow.
        """
        if any(job.expired for job in jobs):
            return
        cost = sum([job.cost for job in jobs])
        unit_s = took_s / cost
        believed = _FASTER if unit_s < self._unit_s else _SLOWER
        self._unit_s += believed * (unit_s - self._unit_s)
        self._mean_cost += _SMOOTHING * (cost / len(jobs) - self._mean_cost)

    def _ahead_s(self, clients: int, own_cost: float, load: Load) -> float:
        """Seconds that a further job of a client waits for: its own jobs, the turns of others, and what workers hold."""
        cost = own_cost * clients + load.in_hand * self._mean_cost
        return cost * self._unit_s / max(1, load.workers)
