"""The pool of one token: hands jobs to its workers and reports how each ended. It runs on the event loop of the front.

Each worker holds at most a window of jobs; the others wait in a bounded queue. All jobs that one turn of the loop brings reach a
worker in one write, and all answers of one read are reported in one call. The pool never repeats a job.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from hsmd.daemon.front.tokens.circuit_breaker import HealthListener, NoListener, TokenHealth
from hsmd.daemon.front.tokens.control_channel import ControlChannel
from hsmd.daemon.front.tokens.crash_attribution import CrashAttribution
from hsmd.daemon.front.tokens.job_pause import JobPause
from hsmd.daemon.front.tokens.job_queue import JobQueue
from hsmd.daemon.front.tokens.jobs import Completion, Job, Status
from hsmd.daemon.front.tokens.key_announcements import KeyAnnouncements
from hsmd.daemon.front.tokens.load_shedding import Load, LoadShedder
from hsmd.daemon.front.tokens.token_changes import TokenChanges
from hsmd.daemon.front.tokens.token_requests import TokenRequests
from hsmd.daemon.front.tokens.token_workers import TokenWorkers
from hsmd.daemon.front.tokens.worker_channel import WorkerChannel
from hsmd.daemon.front.tokens.worker_rotation import UNBOUNDED, WorkerRotation
from hsmd.daemon.ipc.worker_messages import Candidates, Describe, TokenRequest
from hsmd.errors import DeadlineExceeded, Draining, HsmdError, ProtocolError, Unavailable
from hsmd.protocol.messages import TokenStatus, WorkerStatus

__all__ = ["Completion", "Job", "Status", "TokenPool"]

SWEEP_S = 0.010
"""How often deadlines and stalls are checked while there are jobs."""
IDLE_SWEEP_S = 0.250
START_LIMIT_S = 20.0
"""A worker that is starting and has made no progress for this long is replaced."""
AWAY_S = 2.0
"""When there has been no worker for this long, jobs are refused at once instead of queued."""
_NEVER = float("inf")
PROBE_S = 20.0
"""An idle worker probes the token this often, unless configured otherwise."""


class TokenPool:
    """The jobs of one token, and the workers that carry them out. Call everything from the event loop."""

    def __init__(
        self,
        name: str,
        *,
        window: int,
        max_queue: int,
        stall_s: float,
        clock: Callable[[], float],
        request_replacement: Callable[[int], None],
        completed: Callable[[list[Completion]], None],
        log: Any,
        start_limit_s: float = START_LIMIT_S,
        away_s: float = AWAY_S,
        probe_s: float = PROBE_S,
        listener: HealthListener | None = None,
        workers: int = UNBOUNDED,
        spare: bool = False,
        recycle_after_operations: int = 0,
        recycle_after_s: float = 0.0,
        crashed: Callable[[Job], None] = lambda job: None,
    ) -> None:
        """`window` is how many jobs a worker holds, `max_queue` how many wait here beyond that. `clock` is monotonic.

        `request_replacement(pid)` asks the launcher for another worker in place of a lost one. `completed` takes what one read
        or one sweep completed; it may submit again. `crashed` takes jobs during which a worker crashed. `listener` is told of
        the token's health. `workers` of the workers that are ready are given jobs, one more is a spare; see `WorkerRotation`.
        """
        self._name = name
        self._window = window
        self._max_queue = max_queue
        self._clock = clock
        self._report = completed
        self._rotation = WorkerRotation(
            workers,
            spare=spare,
            operations=recycle_after_operations,
            age_s=recycle_after_s,
            chance=random.Random(),
        )
        self._ready = self._rotation.working
        self._health = TokenHealth(name, probe_s=probe_s, listener=listener or NoListener(), log=log)
        self._changes = TokenChanges(clock)
        self._crashes = CrashAttribution(crashed)
        keys = KeyAnnouncements(self._rotation, self._changes, clock)
        self._workers = TokenWorkers(
            name,
            rotation=self._rotation,
            changes=self._changes,
            keys=keys,
            health=self._health,
            crashes=self._crashes,
            clock=clock,
            stall_s=stall_s,
            start_limit_s=start_limit_s,
            away_s=away_s,
            request_replacement=request_replacement,
            usable=self._pump_soon,
            gave_up=self._gave_up,
            log=log,
        )
        self._control = ControlChannel(event=self._workers.event, lost=self._workers.control_lost)
        self._pause = JobPause(self._workers, self._pump)
        self._requests = TokenRequests(self._control, self._workers, self._changes, keys, clock, self._pause)
        self._start_limit_s = start_limit_s
        self._retry_after_ms = int(away_s * 500)
        self._queue = JobQueue(self._finish_soon)
        self._shedder = LoadShedder()
        self._done: list[Completion] = []
        self._pumping = self._reporting = False
        self._sweeping: asyncio.TimerHandle | None = None
        self._next_deadline = _NEVER
        self._closing = False
        self._emptied = asyncio.Event()

    # --- called by the service ---

    def refused(self, jobs: list[Job]) -> list[tuple[Job, HsmdError]]:
        """Those of `jobs` that must not be submitted now, each with its error. Ask before anything is recorded about them."""
        if self._closing:
            return [(job, Draining()) for job in jobs]
        if self._workers.away:
            return [(job, self._unavailable()) for job in jobs]
        ready = len(self._ready)
        load = Load(self._workers.in_hand, self._max_queue + ready * self._window, ready)
        return self._shedder.refused(jobs, self._queue, load, self._clock())

    def submit(self, jobs: list[Job]) -> None:
        """Take jobs that were not refused. If the token is lost they come back as FAILED completions; nothing is raised."""
        if self._closing:
            self._fail(jobs, Draining())
            return
        if self._workers.away:
            self._fail(jobs, self._unavailable())
            return
        self._next_deadline = min(self._next_deadline, min([job.deadline for job in jobs], default=_NEVER))
        self._sweep_later(SWEEP_S)
        idle = any(not worker.jobs for worker in self._ready)
        for job in jobs:
            self._queue.add(job)
        # An idle worker gets its jobs at once, a busy one when everything that this turn of the loop brings is queued.
        if idle:
            self._pump()
        else:
            self._pump_soon()

    def abandon(self, job: Job) -> None:
        """The caller no longer waits for this job: if it is still queued, drop it as NOT_PERFORMED."""
        job.abandoned = True
        if job.queued:
            job.queued = False
            self._finish_soon([Completion(job, Status.NOT_PERFORMED)])

    async def control(self, request: TokenRequest, timeout_s: float) -> Any:
        """Have the control worker carry out one request, one at a time. Returns `request.Result`.

        Raises DeadlineExceeded, Unavailable, or the error that the worker answers. A control worker that does not answer in
        time is replaced; what it has done then is unknown.
        """
        if self._closing:
            raise Draining
        return await self._requests.carry_out(request, timeout_s)

    async def pages(self, request: Describe | Candidates, timeout_s: float) -> AsyncIterator[list[Any]]:
        """Have the control worker list keys, page by page; other requests are carried out in between.

        `timeout_s` is for the whole list. Raises as `control`, and BadRequest if the list has to be begun again.
        """
        if self._closing:
            raise Draining
        async for keys in self._requests.pages(request, timeout_s):
            yield keys

    def note_new_key(self, key: str) -> None:
        """The store has a new key (digest in hex): tell the workers, unless they were told when it was made here."""
        self._requests.note_new_key(key)

    def note_change(self) -> None:
        """Another daemon may have changed the token."""
        self._changes.note()

    @property
    def is_ready(self) -> bool:
        """Whether the token can be used now."""
        return self._workers.state() == "ready"

    def status(self) -> TokenStatus:
        """The state of token and workers for `hsmd status`."""
        workers = [*self._workers.all, *([self._control.worker] if self._control.worker else [])]
        ready = next((worker.ready for worker in workers if worker.ready), None)
        return TokenStatus(
            name=self._name,
            label=ready.label if ready else "",
            serial=ready.serial if ready else "",
            state=self._workers.state(),
            queued=self._queue.size,
            workers=[
                WorkerStatus(
                    worker.pid,
                    self._workers.state_of(worker),
                    len(worker.jobs),
                    self._workers.restarts,
                    "control" if worker.control else "signing",
                )
                for worker in workers
            ],
            abilities=list(ready.abilities) if ready else [],
            breaker=self._health.state.value,
            reason=self._health.reason,
            wrapping=self._wrapping(),
            write_protected=self._write_protected(),
        )

    def _wrapping(self) -> list[str]:
        control = self._control.worker
        return list(control.ready.wrapping) if control is not None and control.ready is not None else []

    def _write_protected(self) -> bool:
        control = self._control.worker
        return control is not None and control.ready is not None and control.ready.write_protected

    def try_login(self) -> None:
        """Replace the control worker, which no handshake waits for, so that the PIN is tried; not if it is starting anyway."""
        control = self._control.worker
        if control is not None and control.ready is not None:
            self._control.lose("the PIN is tried, because an operator has cleared the logins")

    def ended(self, pid: int, by_signal: int) -> None:
        """A worker's process ended, by a signal or by itself (0), as the launcher reports."""
        self._crashes.ended(pid, by_signal)

    def hold(self, reason: str) -> None:
        """Logins to the token are stopped for this reason; empty when they are allowed again. Ready workers continue."""
        self._health.refusal = reason

    def wait(self, reason: str) -> None:
        """No worker is started for this reason, until one is. Not told while others are logged in."""
        self._health.waiting = "" if self._ready else reason

    async def close(self, grace_s: float) -> None:
        """Refuse new jobs, wait `grace_s` seconds at most for those that there are, then give the rest up."""
        self._closing = True
        if self._outstanding():
            self._sweep_later(SWEEP_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._emptied.wait()
        for worker in list(self._workers.all):
            self._workers.lose(worker, "the daemon stops", replace=False)
        self._control.close()
        self._queue.clear(Status.NOT_PERFORMED, Draining())
        self._report_done()

    # --- called for the launcher ---

    def attach(self, worker_socket: socket.socket, progress_fd: int, pid: int, control: bool) -> None:
        """Take over a worker that was started, with both descriptors."""
        worker = WorkerChannel(worker_socket, progress_fd, pid, control, self._clock())
        self._crashes.begun(pid)
        if self._closing:
            worker.close()
            return
        if control:
            self._control.attach(worker)
        else:
            self._workers.add(worker, self._readable)
        self._health.starting()
        self._sweep_later(IDLE_SWEEP_S)

    # --- handing out ---

    def _pump_soon(self) -> None:
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        if self._queue.size and not self._pause.active:
            workers = self._changes.to_be_given_jobs(self._ready)
            self._queue.hand_out(workers, self._window, self._clock())

    def _outstanding(self) -> int:
        return self._queue.size + self._workers.in_hand

    # --- taking answers ---

    def _readable(self, worker: WorkerChannel) -> None:
        done: list[Completion] = []
        why = ""
        try:
            frames = worker.receive()
            if frames is None:
                why = "it ended"
            else:
                worker.take_answers(frames, done, self._workers.event)
        except ProtocolError as error:
            why = f"it broke the protocol: {error.text}"
        now = worker.moved_at = self._clock()
        if self._changes.recent:
            worker.moved(now)  # it may be the one that others wait for
        if worker.alone and not worker.jobs:
            worker.alone = False
        if done:
            self._shedder.served([completion.job for completion in done], now - worker.read_at)
            worker.read_at = now
            self._report(done)
            if self._pause.active:
                self._pause.note_done()
        if why:
            self._workers.lose(worker, why)
        elif self._queue.size:
            self._pump_soon()

    def _gave_up(self, done: list[Completion]) -> None:
        """A worker was given up, with these jobs."""
        self._deliver(done)
        self._pause.note_done()
        if self._queue.size:
            self._pump_soon()

    # --- reporting ---

    def _deliver(self, done: list[Completion]) -> None:
        if done:
            self._report(done)

    def _finish_soon(self, done: list[Completion]) -> None:
        """Report in a later turn of the loop, so that no caller is called back from within its own call."""
        self._done += done
        if not self._reporting:
            self._reporting = True
            asyncio.get_running_loop().call_soon(self._report_done)

    def _report_done(self) -> None:
        self._reporting = False
        done, self._done = self._done, []
        self._deliver(done)

    def _fail(self, jobs: list[Job], error: Any) -> None:
        self._finish_soon([Completion(job, Status.FAILED, error=error) for job in jobs])

    def _unavailable(self) -> Unavailable:
        return Unavailable(
            "the token is away", retry_after_ms=self._retry_after_ms, detail=self._health.reason
        )

    # --- deadlines and stalls ---

    def _sweep_later(self, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        if self._sweeping is not None:
            if self._sweeping.when() <= loop.time() + delay_s:
                return
            self._sweeping.cancel()
        self._sweeping = loop.call_later(delay_s, self._sweep)

    def _sweep(self) -> None:
        """Check deadlines, stalls, starts that take too long, and a token that stays away."""
        self._sweeping = None
        if self._closing and not self._outstanding():
            self._emptied.set()
            return
        now = self._clock()
        if now >= self._next_deadline:
            self._expire(now)
        self._workers.check(now)
        control = self._control.worker
        if control is not None and control.ready is None:
            control.moved(now)
            if now - control.moved_at >= self._start_limit_s:
                self._control.lose("it did not get ready in time")
        if self._workers.away:
            self._queue.clear(Status.FAILED, self._unavailable())
        if self._queue.size and not self._changes.recent:
            self._pump_soon()
        if self._outstanding():
            self._sweep_later(SWEEP_S)
        elif self._workers.all or self._control.worker is not None:
            self._sweep_later(IDLE_SWEEP_S)

    def _expire(self, now: float) -> None:
        expired: list[Completion] = []
        earliest = self._queue.sweep(now)
        for worker in self._workers.all:
            for job in worker.jobs.values():
                if job.expired:
                    continue
                if job.deadline <= now:
                    job.expired = True
                    expired.append(Completion(job, Status.EXPIRED, error=DeadlineExceeded()))
                elif job.deadline < earliest:
                    earliest = job.deadline
        self._next_deadline = earliest
        self._deliver(expired)
