"""The pool: hands jobs to the workers of one token and says how each ended. Lives on the event loop of the front.

Each worker holds at most a window of jobs, the rest waits here, bounded. All jobs of one turn of the loop reach a worker in
one write, all answers of one read are reported in one call. The pool never repeats a job; it says what is known about it.

A worker is lost when its socket closes, when it makes no progress for `stall_s` while it has jobs, or when it does not get
ready in time. Its progress page then tells its jobs apart: up to `started` they may have used the key (UNKNOWN), beyond it they
have not (NOT_PERFORMED), and the fence in the page keeps it so.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from hsmd.daemon.token.control_link import ControlLink, Overdue
from hsmd.daemon.token.jobs import Completion, Job, Status
from hsmd.daemon.token.link import WorkerLink
from hsmd.daemon.token.messages import CHANGES, Failed, Ready, TokenRequest, decode_event
from hsmd.errors import (
    DeadlineExceeded,
    Draining,
    ErrorCode,
    Overloaded,
    ProtocolError,
    TokenFailure,
    Unavailable,
)
from hsmd.protocol.frames import Frame, Kind, decode_error, encode
from hsmd.protocol.messages import TokenStatus, WorkerStatus

__all__ = ["Completion", "Job", "Status", "TokenPool"]

SWEEP_S = 0.010
"""How often deadlines and stalls are looked at while there are jobs."""
IDLE_SWEEP_S = 0.250
START_LIMIT_S = 20.0
"""A worker that is not ready by then is replaced: it may wait for others' starts, each takes about 0.3 s."""
AWAY_S = 2.0
"""Without any worker for this long, jobs are turned away at once instead of waiting for one."""
RETRY_AFTER_MS = 100


_KEYS_CHANGED = encode(Kind.EVENT, 0, b'{"event":"keys-changed"}')


class TokenPool:
    """The workers of one token. Everything is to be called from the event loop."""

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
    ) -> None:
        """`window` is how many jobs a worker holds, `max_queue` how many wait here beyond that. `clock` is monotonic.

        `request_replacement(pid)` asks the launcher for another worker in place of a lost one. `completed` takes what
        one read or one sweep completed; it may submit again.
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
        self._links: list[WorkerLink] = []
        self._ready: list[WorkerLink] = []
        self._control = ControlLink(name, clock)
        self._queue: deque[Job] = deque()
        self._alone: deque[Job] = deque()
        self._next_id = 1
        self._done: list[Completion] = []
        self._pumping = self._reporting = False
        self._sweeping: asyncio.TimerHandle | None = None
        self._next_deadline = float("inf")
        self._away_since = clock()
        self._restarts = 0
        self._login_refused = False
        self._closing = False

    # --- the service's side ---

    def submit(self, jobs: list[Job]) -> None:
        """Take jobs. Those that cannot be taken come back as FAILED completions, soon, never as exceptions."""
        if self._closing:
            self._fail(jobs, Draining())
            return
        if not self._ready and self._clock() - self._away_since >= self._away_s:
            self._fail(jobs, self._unavailable())
            return
        room = self._max_queue + len(self._ready) * self._window - self._outstanding()
        if len(jobs) > room:
            kept = max(room, 0)
            self._fail(jobs[kept:], Overloaded(retry_after_ms=RETRY_AFTER_MS))
            jobs = jobs[:kept]
        for job in jobs:
            job.queued = True
            (self._alone if job.alone else self._queue).append(job)
            if job.deadline < self._next_deadline:
                self._next_deadline = job.deadline
        # An idle worker gets its work at once; a busy one when everything that this turn of the loop brings is there.
        if any(not link.jobs for link in self._ready):
            self._pump()
        else:
            self._pump_soon()
        self._sweep_later(SWEEP_S)

    def abandon(self, job: Job) -> None:
        """Nobody waits for it any more: if it is still queued here it is dropped, as NOT_PERFORMED."""
        job.abandoned = True
        if job.queued:
            job.queued = False
            self._finish_soon([Completion(job, Status.NOT_PERFORMED)])

    async def control(self, request: TokenRequest, timeout_s: float) -> Any:
        """Have the control worker carry out one request; requests wait for each other. Returns `request.Result`.

        Raises DeadlineExceeded, Unavailable, or the error the worker answers; a control worker that overruns is
        replaced, and what it did then is not known.
        """
        if self._closing:
            raise Draining()
        try:
            result = await self._control.ask(request, timeout_s)
        except Overdue:
            self._lose_control("it did not answer in time")
            raise
        if isinstance(request, CHANGES):
            for link in self._ready:
                link.send(_KEYS_CHANGED)
        return result

    def status(self) -> TokenStatus:
        """The state of token and workers for `hsmd status`."""
        links = [*self._links, *([self._control.link] if self._control.link else [])]
        ready = next((link.ready for link in links if link.ready), None)
        return TokenStatus(
            name=self._name,
            label=ready.label if ready else "",
            serial=ready.serial if ready else "",
            state=self._state(),
            queued=len(self._queue) + len(self._alone),
            workers=[WorkerStatus(link.pid, self._worker_state(link), len(link.jobs), self._restarts) for link in links],
            abilities=list(ready.abilities) if ready else [],
        )

    async def close(self, grace_s: float) -> None:
        """Take nothing new, give what is outstanding `grace_s` seconds, then give everything up."""
        self._closing = True
        give_up = self._clock() + grace_s
        while self._outstanding() and self._clock() < give_up:
            await asyncio.sleep(SWEEP_S)
        for link in list(self._links):
            self._lose(link, "the daemon stops", replace=False)
        self._control.close()
        queued = [job for job in (*self._queue, *self._alone) if job.queued]
        self._queue.clear()
        self._alone.clear()
        self._deliver([Completion(job, Status.NOT_PERFORMED, error=Draining()) for job in queued])

    # --- the launcher's side ---

    def attach(self, worker_socket: socket.socket, progress_fd: int, pid: int, control: bool) -> None:
        """A worker was started; the pool owns both descriptors from now on."""
        link = WorkerLink(worker_socket, progress_fd, pid, control, self._clock())
        if self._closing:
            link.close()
            return
        if control:
            if self._control.link is not None:
                self._control.lost("another control worker took its place")
            self._control.attach(link)
            link.watch(self._control_readable)
        else:
            self._links.append(link)
            link.watch(self._readable)
        self._sweep_later(IDLE_SWEEP_S)

    # --- handing out ---

    def _pump_soon(self) -> None:
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Give every worker its share of what waits, in one write each."""
        self._pumping = False
        if self._alone:
            self._pump_alone()
        if not self._queue:
            return
        now = self._clock()
        shares: dict[WorkerLink, list[tuple[int, Job]]] = {}
        dead: list[Completion] = []
        loads = {link: len(link.jobs) for link in self._ready if not link.alone}
        while self._queue and loads:
            link = min(loads, key=loads.__getitem__) if len(loads) > 1 else next(iter(loads))
            if loads[link] >= self._window:
                break
            job = self._queue.popleft()
            if not self._still_wanted(job, now, dead):
                continue
            loads[link] += 1
            shares.setdefault(link, []).append((self._take_id(), job))
        for link, share in shares.items():
            link.send_jobs(share, now)
        if dead:
            self._finish_soon(dead)

    def _pump_alone(self) -> None:
        """A job that wants to be alone waits for the least busy worker to run empty; nothing is added to it meanwhile."""
        now = self._clock()
        dead: list[Completion] = []
        for link in sorted(self._ready, key=lambda link: len(link.jobs)):
            while self._alone and not self._still_wanted(self._alone[0], now, dead):
                self._alone.popleft()
            if not self._alone:
                break
            if link.jobs:
                reserved = any(other.alone and not _has_alone_job(other) for other in self._ready)
                link.alone = link.alone or not reserved
                continue
            link.alone = True
            link.send_jobs([(self._take_id(), self._alone.popleft())], now)
        if not self._alone:
            for link in self._ready:
                link.alone = _has_alone_job(link)
        if dead:
            self._finish_soon(dead)

    def _still_wanted(self, job: Job, now: float, dead: list[Completion]) -> bool:
        if not job.queued:
            return False
        if job.deadline <= now:
            job.queued = False
            dead.append(Completion(job, Status.NOT_PERFORMED, error=DeadlineExceeded()))
            return False
        return True

    def _take_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def _outstanding(self) -> int:
        return len(self._queue) + len(self._alone) + sum(len(link.jobs) for link in self._links)

    # --- taking answers ---

    def _readable(self, link: WorkerLink) -> None:
        try:
            received = link.receive()
            done = None if received is None else self._completions(link, received)
        except ProtocolError as error:
            self._lose(link, f"it broke the protocol: {error.text}")
            return
        if done is None:
            self._lose(link, "it ended")
            return
        link.moved_at = self._clock()
        if link.alone and not link.jobs:
            link.alone = False
        if done:
            self._deliver(done)
        if self._queue or self._alone:
            self._pump_soon()

    def _completions(self, link: WorkerLink, received: list[Frame]) -> list[Completion]:
        """What the frames say. Raises ProtocolError if a worker says what no worker says."""
        done: list[Completion] = []
        jobs = link.jobs
        for kind, request_id, body in received:
            if kind == Kind.EVENT:
                self._event(link, body)
                continue
            job = jobs.pop(request_id, None)
            if job is None:
                raise ProtocolError(f"an answer to request {request_id}, which is not open")
            job.queued = False
            if kind == Kind.RESULT:
                done.append(Completion(job, Status.LATE if job.expired else Status.ANSWERED, body, None))
            elif kind == Kind.ERROR:
                done.append(_failed(job, body))
            else:
                raise ProtocolError(f"a frame of kind 0x{kind:02x} from a worker")
        return done

    def _event(self, link: WorkerLink, body: bytes) -> None:
        event = decode_event(body)
        if isinstance(event, Ready):
            link.ready = event
            link.moved_at = self._clock()
            self._login_refused = False
            if not link.control:
                self._ready.append(link)
                self._pump_soon()
            self._log.info("worker.ready", token=self._name, pid=link.pid)
        elif isinstance(event, Failed):
            link.login_refused = self._login_refused = event.login_refused
            self._log.error("worker.failed", token=self._name, pid=link.pid, reason=event.text)

    def _control_readable(self, link: WorkerLink) -> None:
        try:
            received = link.receive()
            for frame in received or []:
                if frame[0] == Kind.EVENT:
                    self._event(link, frame[2])
                    self._control.wake()
                else:
                    self._control.answered(frame)
        except ProtocolError as error:
            self._lose_control(f"it broke the protocol: {error.text}")
            return
        if received is None:
            self._lose_control("it ended")

    # --- reporting ---

    def _deliver(self, done: list[Completion]) -> None:
        if done:
            self._report(done)

    def _finish_soon(self, done: list[Completion]) -> None:
        """Report from a turn of the loop of its own, so that nobody is called back out of his own call."""
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
        return Unavailable("the token is away", retry_after_ms=int(self._away_s * 500))

    # --- watching the time ---

    def _sweep_later(self, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        if self._sweeping is not None:
            if self._sweeping.when() <= loop.time() + delay_s:
                return
            self._sweeping.cancel()
        self._sweeping = loop.call_later(delay_s, self._sweep)

    def _sweep(self) -> None:
        """Deadlines, stalls, starts that take too long, and a token that stays away."""
        self._sweeping = None
        if self._closing and not self._outstanding():
            return
        now = self._clock()
        done: list[Completion] = []
        if now >= self._next_deadline:
            self._expire(now, done)
        for link in list(self._links):
            self._watch(link, now)
        control = self._control.link
        if control is not None and control.ready is None and now - control.attached_at >= self._start_limit_s:
            self._lose_control("it did not get ready in time")
        if not self._ready and now - self._away_since >= self._away_s:
            self._turn_away(done)
        self._deliver(done)
        if self._outstanding():
            self._sweep_later(SWEEP_S)
        elif self._links or self._control.link is not None:
            self._sweep_later(IDLE_SWEEP_S)

    def _expire(self, now: float, done: list[Completion]) -> None:
        self._next_deadline = float("inf")
        for link in self._links:
            for job in link.jobs.values():
                if job.expired:
                    continue
                if job.deadline <= now:
                    job.expired = True
                    done.append(Completion(job, Status.EXPIRED, error=DeadlineExceeded()))
                else:
                    self._next_deadline = min(self._next_deadline, job.deadline)
        for queue in (self._queue, self._alone):
            kept = [job for job in queue if self._still_wanted(job, now, done)]
            queue.clear()
            queue.extend(kept)
            self._next_deadline = min((job.deadline for job in kept), default=self._next_deadline)

    def _watch(self, link: WorkerLink, now: float) -> None:
        if link.ready is None:
            if now - link.attached_at >= self._start_limit_s:
                self._lose(link, "it did not get ready in time")
            return
        link.moved(now)
        if link.jobs and now - link.moved_at >= self._stall_s:
            self._lose(link, f"it made no progress for {self._stall_s} s")

    def _turn_away(self, done: list[Completion]) -> None:
        for queue in (self._queue, self._alone):
            for job in queue:
                if job.queued:
                    job.queued = False
                    done.append(Completion(job, Status.FAILED, error=self._unavailable()))
            queue.clear()

    # --- losing workers ---

    def _lose(self, link: WorkerLink, why: str, *, replace: bool = True) -> None:
        """Give a worker up and say of each of its jobs what is known."""
        if link.lost:
            return
        link.close()
        self._links.remove(link)
        if link in self._ready:
            self._ready.remove(link)
            if not self._ready:
                self._away_since = self._clock()
        # Read after the fence was set in close(): what has not begun by now never will.
        started = link.progress.started
        if replace:
            self._log.warning("worker.lost", token=self._name, pid=link.pid, reason=why, in_flight=len(link.jobs))
            self._restarts += 1
            self._request_replacement(link.pid)
        done = [_lost(job, started) for job in link.jobs.values()]
        link.jobs.clear()
        link.progress.close()
        self._deliver(done)
        if self._queue or self._alone:
            self._pump_soon()

    def _lose_control(self, why: str) -> None:
        link = self._control.link
        if link is None:
            return
        self._control.lost(why)
        self._restarts += 1
        self._log.warning("worker.lost", token=self._name, pid=link.pid, reason=why)
        self._request_replacement(link.pid)

    # --- words for status ---

    def _state(self) -> str:
        if self._ready:
            return "ready"
        if self._login_refused:
            return "login-refused"
        return "starting" if self._clock() - self._away_since < self._away_s else "away"

    def _worker_state(self, link: WorkerLink) -> str:
        if link.ready is None:
            return "starting"
        if not link.jobs:
            return "ready"
        return "stalled" if self._clock() - link.moved_at > self._stall_s / 2 else "busy"


def _has_alone_job(link: WorkerLink) -> bool:
    return any(job.alone for job in link.jobs.values())


def _failed(job: Job, body: bytes) -> Completion:
    error = decode_error(body)
    if error.code == ErrorCode.DEADLINE:
        # The worker skipped it: by its count the deadline had passed.
        return Completion(job, Status.NOT_PERFORMED, error=error)
    return Completion(job, Status.FAILED, error=error)


def _lost(job: Job, started: int) -> Completion:
    if job.number <= started:
        return Completion(job, Status.UNKNOWN, error=TokenFailure("the token worker was lost during this operation"))
    return Completion(job, Status.NOT_PERFORMED, error=Unavailable("the token worker was lost"))
