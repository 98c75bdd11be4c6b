"""The pool of one token: hands jobs to its workers and reports how each ended. It runs on the event loop of the front.

Each worker holds at most a window of jobs; the others wait in a bounded queue. All jobs that one turn of the loop brings reach a
worker in one write, and all answers of one read are reported in one call. The pool never repeats a job.

A worker is lost when its socket closes, when it has jobs and makes no progress for `stall_s`, or when it is not ready in time.
Its progress page then tells its jobs apart: those up to `started` may have used the key (UNKNOWN), those beyond have not
(NOT_PERFORMED), and never will, because the page's fence is set.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from msgspec.structs import replace

from hsmd.daemon.front.tokens.circuit_breaker import HealthListener, NoListener, TokenHealth
from hsmd.daemon.front.tokens.control_channel import ControlChannel
from hsmd.daemon.front.tokens.crash_attribution import CrashAttribution
from hsmd.daemon.front.tokens.job_queue import JobQueue
from hsmd.daemon.front.tokens.jobs import Completion, Job, Status
from hsmd.daemon.front.tokens.key_announcements import KeyAnnouncements
from hsmd.daemon.front.tokens.load_shedding import Load, LoadShedder
from hsmd.daemon.front.tokens.token_changes import TokenChanges, is_quick_change
from hsmd.daemon.front.tokens.worker_channel import MANY_KEYS, WorkerChannel
from hsmd.daemon.front.tokens.worker_rotation import UNBOUNDED, WorkerRotation
from hsmd.daemon.ipc.worker_messages import (
    Adopt,
    Candidates,
    Describe,
    Destroy,
    Failed,
    Faulty,
    Generate,
    LookedUp,
    Probed,
    Ready,
    TokenRequest,
    Unwrap,
    decode_event,
)
from hsmd.errors import DeadlineExceeded, Draining, HsmdError, ProtocolError, Unavailable
from hsmd.protocol.messages import TokenStatus, WorkerStatus

__all__ = ["Completion", "Job", "Status", "TokenPool"]

SWEEP_S = 0.010
"""How often deadlines and stalls are checked while there are jobs."""
IDLE_SWEEP_S = 0.250
START_LIMIT_S = 20.0
"""A worker that is starting and has made no progress for this long is replaced."""
PAGE_S = 10.0
"""Each page of a list gets this long: a worker that does not answer in time is taken for one that hangs."""
AWAY_S = 2.0
"""When there has been no worker for this long, jobs are refused at once instead of queued."""
PAUSE_S = 0.1
"""Longest pause of jobs while a key is made. With SoftHSM it takes 5 ms, on a busy machine 100 ms."""
_NEVER = float("inf")
PROBE_S = 20.0
"""An idle worker probes the token this often, unless configured otherwise."""


def _no_pause() -> None:
    pass


class TokenPool:
    """The workers of one token. Call everything from the event loop."""

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
        self._stall_s = stall_s
        self._clock = clock
        self._request_replacement = request_replacement
        self._report = completed
        self._log = log
        self._start_limit_s = start_limit_s
        self._away_s = away_s
        self._workers: list[WorkerChannel] = []
        self._rotation = WorkerRotation(
            workers,
            spare=spare,
            operations=recycle_after_operations,
            age_s=recycle_after_s,
            chance=random.Random(),
        )
        self._ready = self._rotation.working
        self._changes = TokenChanges(clock)
        self._keys = KeyAnnouncements(self._rotation, self._changes, clock)
        self._crashes = CrashAttribution(crashed)
        self._control = ControlChannel(event=self._event, lost=self._control_lost)
        self._queue = JobQueue(self._finish_soon)
        self._shedder = LoadShedder()
        self._done: list[Completion] = []
        self._pumping = self._reporting = False
        self._sweeping: asyncio.TimerHandle | None = None
        self._paused: asyncio.TimerHandle | None = None
        self._next_deadline = _NEVER
        self._away_since = clock()
        self._restarts = 0
        self._closing = False
        self._health = TokenHealth(name, probe_s=probe_s, listener=listener or NoListener(), log=log)
        self._emptied = asyncio.Event()

    # --- called by the service ---

    def refused(self, jobs: list[Job]) -> list[tuple[Job, HsmdError]]:
        """Those of `jobs` that must not be submitted now, each with its error. Ask before anything is recorded about them."""
        if self._closing:
            return [(job, Draining()) for job in jobs]
        if not self._ready and self._away():
            return [(job, self._unavailable()) for job in jobs]
        ready = len(self._ready)
        load = Load(self._in_hand(), self._max_queue + ready * self._window, ready)
        return self._shedder.refused(jobs, self._queue, load, self._clock())

    def submit(self, jobs: list[Job]) -> None:
        """Take jobs that were not refused. If the token is lost they come back as FAILED completions; nothing is raised."""
        if self._closing:
            self._fail(jobs, Draining())
            return
        if not self._ready and self._away():
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
        ends = self._clock() + timeout_s
        with self._changes.made_by(request):
            try:
                pause = self._pause if is_quick_change(request) and self._has_many_keys() else _no_pause
                result = await self._control.ask(request, timeout_s, pause)
            finally:
                self._go_on()
            self._note_progress()  # what has ended by now has not used what is new
        match request:
            case Generate() | Adopt() | Unwrap(keep=True):
                await self._announce(result.key, ends - self._clock())
            case Destroy():
                self._keys.destroyed(request.key)
        return result

    async def pages(self, request: Describe | Candidates, timeout_s: float) -> AsyncIterator[list[Any]]:
        """Have the control worker list keys, page by page; other requests are carried out in between.

        `timeout_s` is for the whole list. Raises as `control`, and BadRequest if the list has to be begun again.
        """
        ends = self._clock() + timeout_s
        while True:
            answer = await self.control(request, max(ends - self._clock(), PAGE_S))
            yield answer.keys
            if not answer.cursor:
                return
            if self._clock() >= ends:
                raise DeadlineExceeded("the list of keys was not complete in time")
            request = replace(request, cursor=answer.cursor)

    def _has_many_keys(self) -> bool:
        return any(worker.keys >= MANY_KEYS for worker in self._rotation.ready)

    def _pause(self) -> None:
        """Hand out no jobs for a moment: a worker that uses a key while objects are made has to read the token twice."""
        self._go_on()
        self._paused = asyncio.get_running_loop().call_later(PAUSE_S, self._go_on)

    def _go_on(self) -> None:
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None
            self._pump()

    def _note_progress(self) -> None:
        now = self._clock()
        for worker in self._workers:
            worker.moved(now)

    def note_new_key(self, key: str) -> None:
        """The store has a new key (digest in hex): tell the workers, unless they were told when it was made here."""
        if not self._keys.knows(key):
            self._changes.note()
            self._keys.made([key])

    def note_change(self) -> None:
        """Another daemon may have changed the token."""
        self._changes.note()

    async def _announce(self, key: str, timeout_s: float) -> None:
        """Tell the workers of a new key, and wait until they serve it; those that take longer than this serve it later."""
        self._keys.made([key])
        with suppress(TimeoutError):
            async with asyncio.timeout(max(timeout_s, 0)):
                await self._keys.until_told(key)

    def status(self) -> TokenStatus:
        """The state of token and workers for `hsmd status`."""
        workers = [*self._workers, *([self._control.worker] if self._control.worker else [])]
        ready = next((worker.ready for worker in workers if worker.ready), None)
        return TokenStatus(
            name=self._name,
            label=ready.label if ready else "",
            serial=ready.serial if ready else "",
            state=self._state(),
            queued=self._queue.size,
            workers=[
                WorkerStatus(worker.pid, self._worker_state(worker), len(worker.jobs), self._restarts)
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

    def ended(self, pid: int, by_signal: int) -> None:
        """A worker's process ended, by a signal or by itself (0), as the launcher reports."""
        self._crashes.ended(pid, by_signal)

    def hold(self, reason: str) -> None:
        """Logins to the token are stopped for this reason; empty when they are allowed again. Ready workers continue."""
        self._health.refusal = reason

    async def close(self, grace_s: float) -> None:
        """Refuse new jobs, wait `grace_s` seconds at most for those that there are, then give the rest up."""
        self._closing = True
        if self._outstanding():
            self._sweep_later(SWEEP_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._emptied.wait()
        for worker in list(self._workers):
            self._lose(worker, "the daemon stops", replace=False)
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
            self._workers.append(worker)
            worker.watch(self._readable)
        self._health.starting()
        self._sweep_later(IDLE_SWEEP_S)

    # --- handing out ---

    def _pump_soon(self) -> None:
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        if self._queue.size and self._paused is None:
            self._queue.hand_out(self._ready, self._window, self._clock())

    def _outstanding(self) -> int:
        return self._queue.size + self._in_hand()

    def _in_hand(self) -> int:
        return sum([len(worker.jobs) for worker in self._workers])

    # --- taking answers ---

    def _readable(self, worker: WorkerChannel) -> None:
        done: list[Completion] = []
        why = ""
        try:
            frames = worker.receive()
            if frames is None:
                why = "it ended"
            else:
                worker.take_answers(frames, done, self._event)
        except ProtocolError as error:
            why = f"it broke the protocol: {error.text}"
        now = worker.moved_at = self._clock()
        if worker.alone and not worker.jobs:
            worker.alone = False
        if done:
            self._shedder.served([completion.job for completion in done], now - worker.read_at)
            worker.read_at = now
            self._report(done)
        if why:
            self._lose(worker, why)
        elif self._queue.size:
            self._pump_soon()

    def _event(self, worker: WorkerChannel, body: bytes) -> None:
        """What a worker reports by itself. Raises ProtocolError for an event that was not to be expected."""
        event = decode_event(body)
        match event:
            case Ready():
                self._started(worker, event)
            case Failed():
                self._not_started(worker, event)
            case Faulty():
                self._log.critical(
                    "token.faulty_signature",
                    token=self._name,
                    pid=worker.pid,
                    key=event.key,
                    reason=event.text,
                )
            case LookedUp():
                self._looked_up(worker, event)
            case Probed():
                self._probed(worker, event)

    def _started(self, worker: WorkerChannel, event: Ready) -> None:
        if worker.ready is not None:
            raise ProtocolError("it was ready before")
        worker.ready, worker.keys = event, event.keys
        worker.moved_at = self._clock()
        if not worker.control:
            self._rotation.add(worker, worker.moved_at)
            self._keys.ready(worker)
            self._pump_soon()
        self._log.info("worker.ready", token=self._name, pid=worker.pid)
        self._health.ready()

    def _not_started(self, worker: WorkerChannel, event: Failed) -> None:
        worker.failed = True
        self._log.error("worker.failed", token=self._name, pid=worker.pid, reason=event.text)
        if event.login_refused:
            self._health.login_refused(event.text)
        else:
            self._health.not_started(event.text, others=bool(self._rotation.ready))
            self._probe()

    def _looked_up(self, worker: WorkerChannel, event: LookedUp) -> None:
        worker.used_at = self._clock()
        if not self._keys.looked_up(worker):
            raise ProtocolError("it was not asked to look for keys")
        if event.missing:
            missing = len(event.missing)
            self._log.warning("token.new_keys_missing", token=self._name, pid=worker.pid, count=missing)
        self._pump_soon()

    def _probed(self, worker: WorkerChannel, event: Probed) -> None:
        if not worker.probing:
            raise ProtocolError("it was not asked to probe the token")
        worker.used_at = self._clock()
        # With a fault it sends its answers and exits by itself.
        if event.fault and self._rotation.remove(worker):
            self._note_away()
        self._health.answered(worker, event, others=bool(self._rotation.ready))
        if event.fault:
            self._probe()

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
            "the token is away", retry_after_ms=int(self._away_s * 500), detail=self._health.reason
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
        for worker in list(self._workers):
            self._watch(worker, now)
        self._keys.proceed()
        self._health.ask_idle(self._rotation.ready, now)
        self._recycle(now)
        control = self._control.worker
        if control is not None and control.ready is None:
            control.moved(now)
            if now - control.moved_at >= self._start_limit_s:
                self._control.lose("it did not get ready in time")
        if not self._ready and self._away():
            self._queue.clear(Status.FAILED, self._unavailable())
        if self._outstanding():
            self._sweep_later(SWEEP_S)
        elif self._workers or self._control.worker is not None:
            self._sweep_later(IDLE_SWEEP_S)

    def _expire(self, now: float) -> None:
        expired: list[Completion] = []
        earliest = self._queue.sweep(now)
        for worker in self._workers:
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

    def _watch(self, worker: WorkerChannel, now: float) -> None:
        worker.moved(now)
        if worker.ready is None:
            if now - worker.moved_at >= self._start_limit_s:
                worker.failed = True
                self._lose(worker, "it did not get ready in time")
                self._health.not_started(
                    "a worker did not get ready in time", others=bool(self._rotation.ready)
                )
            return
        if self._changes.stalled(worker, now, self._stall_s):
            probed = worker.probing and not worker.jobs
            self._lose(worker, f"it made no progress for {now - worker.moved_at:.1f} s")
            if probed:
                self._health.stalled(others=bool(self._rotation.ready))

    def _recycle(self, now: float) -> None:
        """Replace workers that have served their time."""
        self._rotation.retire_due(now)
        if self._rotation.leaving:
            self._note_away()
        for worker in self._rotation.left():
            worker.close()
            self._workers.remove(worker)
            self._rotation.remove(worker)
            self._keys.lost(worker)
            worker.progress.close()
            self._log.info("worker.recycled", token=self._name, pid=worker.pid, count=worker.sent)
            self._request_replacement(worker.pid)

    # --- losing workers ---

    def _lose(self, worker: WorkerChannel, why: str, *, replace: bool = True) -> None:
        """Give a worker up and report each of its jobs."""
        if worker.lost:
            return
        worker.close()
        self._workers.remove(worker)
        if self._rotation.remove(worker):
            self._note_away()
        self._keys.lost(worker)
        # Read after close() has set the fence: what has not begun by now never will.
        started = worker.progress.started
        if worker.ready is not None and started > worker.progress.finished:
            self._crashes.lost(
                worker.pid, next((job for job in worker.jobs.values() if job.number == started), None)
            )
        if replace:
            self._log.warning(
                "worker.lost", token=self._name, pid=worker.pid, reason=why, in_flight=len(worker.jobs)
            )
            self._restarts += 1
            self._request_replacement(worker.pid)
            if worker.ready is not None:
                self._probe()
            elif not worker.failed:
                self._health.ended_silently(others=bool(self._rotation.ready))
        done = worker.give_up_jobs(started)
        worker.progress.close()
        self._deliver(done)
        if self._queue.size:
            self._pump_soon()

    def _probe(self) -> None:
        """Something went wrong with a worker: have the others probe the token."""
        self._health.ask(self._rotation.ready, self._clock())

    def _note_away(self) -> None:
        if not self._ready:
            self._away_since = self._clock()

    def _away(self) -> bool:
        """Whether the token is not expected to get a worker soon, given that it has none."""
        return self._health.refusing or self._clock() - self._away_since >= self._away_s

    def _control_lost(self, worker: WorkerChannel, why: str) -> None:
        self._restarts += 1
        self._log.warning("worker.lost", token=self._name, pid=worker.pid, reason=why)
        self._request_replacement(worker.pid)

    # --- status ---

    def _state(self) -> str:
        if self._ready:
            return "ready"
        if self._health.refusal:
            return "login-refused"
        return "away" if self._away() else "starting"

    def _worker_state(self, worker: WorkerChannel) -> str:
        if worker.ready is None:
            return "starting"
        if worker in self._rotation.spares:
            return "spare"
        if not worker.jobs:
            return "ready"
        return "stalled" if self._clock() - worker.moved_at > self._stall_s / 2 else "busy"
