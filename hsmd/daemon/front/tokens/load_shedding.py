"""The entrance to a token's queue: who may still add a job, and whether it would be served in time.

One client alone may use all of it; as soon as others come, each has an equal part, so that only who floods is turned away. A job
that could not be served before its deadline is turned away at once: it would only take the place of one that can.
"""

from __future__ import annotations

from dataclasses import dataclass

from hsmd.daemon.front.tokens.job_queue import JobQueue
from hsmd.daemon.front.tokens.jobs import Job
from hsmd.errors import HsmdError, Overloaded

ACTIVE_S = 1.0
"""A client counts as active for so long after its last job."""
LEAST_SHARE = 64
"""Jobs that each active client may have waiting, however many there are."""
SHARED_WINDOW = 8
"""Jobs that a worker holds while several clients are active: those behind them are still handed out by turns."""
RETRY_AFTER_MS = 100
_FASTER, _SLOWER = 0.3, 0.05
_SMOOTHING = 0.1


@dataclass(frozen=True, slots=True)
class Load:
    """What the token has to do at the moment: jobs in workers' hands, jobs it can take in all, workers that are ready."""

    in_hand: int
    capacity: int
    workers: int


class LoadShedder:
    """Decides, batch by batch; learns from the answers how fast the token is."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}
        self._looked_at = 0.0
        self._unit_s = 0.0
        self._mean_cost = 1.0

    def shared(self, now: float) -> bool:
        """Whether more than one client is active."""
        if len(self._seen) > 1 and now - self._looked_at > ACTIVE_S / 4:
            self._looked_at = now
            self._seen = {client: seen for client, seen in self._seen.items() if now - seen <= ACTIVE_S}
        return len(self._seen) > 1

    def turned_away(
        self, jobs: list[Job], backlog: JobQueue, load: Load, now: float
    ) -> list[tuple[Job, HsmdError]]:
        """Those of `jobs` that find no room, or would not be served in time, and why; the others may be queued."""
        refused: list[tuple[Job, HsmdError]] = []
        room = load.capacity - load.in_hand - len(backlog)
        for client in dict.fromkeys([job.client for job in jobs]):
            self._seen[client] = now
            mine = [job for job in jobs if job.client == client]
            share = max(LEAST_SHARE, load.capacity // (len(self._seen) if self.shared(now) else 1))
            waiting, cost = backlog.waiting(client)
            ahead_s = self._ahead_s(backlog.clients + (waiting == 0), cost, load)
            per_cost_s = self._unit_s * max(1, backlog.clients) / max(1, load.workers)
            for job in mine:
                if room <= 0 or waiting >= share:
                    refused.append(
                        (job, Overloaded(retry_after_ms=max(RETRY_AFTER_MS, _milliseconds(ahead_s))))
                    )
                elif now + ahead_s > job.deadline:
                    refused.append((job, Overloaded(retry_after_ms=_milliseconds(ahead_s))))
                else:
                    room -= 1
                    waiting += 1
                    ahead_s += job.cost * per_cost_s
        return refused

    def served(self, jobs: list[Job], took_s: float) -> None:
        """A worker that was busy all the time answered these in `took_s` seconds.

        A stall says nothing about the pace behind it; and getting faster is believed sooner than getting slower, so that nobody
        is turned away because of what is over.
        """
        if any(job.expired for job in jobs):
            return
        cost = sum([job.cost for job in jobs])
        unit_s = took_s / cost
        believed = _FASTER if unit_s < self._unit_s else _SLOWER
        self._unit_s += believed * (unit_s - self._unit_s) if self._unit_s else unit_s
        self._mean_cost += _SMOOTHING * (cost / len(jobs) - self._mean_cost)

    def _ahead_s(self, clients: int, own_cost: float, load: Load) -> float:
        """How long a further job of a client waits: behind its own by turns with others, and behind what workers hold."""
        cost = own_cost * clients + load.in_hand * self._mean_cost
        return cost * self._unit_s / max(1, load.workers)


def _milliseconds(seconds: float) -> int:
    return max(1, min(60_000, round(seconds * 1000)))
