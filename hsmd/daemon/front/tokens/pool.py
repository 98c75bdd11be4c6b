"""The pool: hands jobs to the workers of one token and says how each ended. Lives on the event loop of the front.

Each worker holds at most a window of jobs, the rest waits here, bounded. All jobs of one turn of the loop reach a worker in
one write, all answers of one read are reported in one call. The pool never repeats a job; it says what is known about it.

A worker is lost when its socket closes, when it makes no progress for `stall_s` while it has jobs, or when it does not get
ready in time. Its progress page then tells its jobs apart: up to `started` they may have used the key (UNKNOWN), beyond it they
have not (NOT_PERFORMED), and the fence in the page keeps it so.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from hsmd.daemon.front.tokens.circuit_breaker import HealthListener, Nobody, TokenHealth
from hsmd.daemon.front.tokens.control_channel import ControlChannel
from hsmd.daemon.front.tokens.crash_attribution import CrashAttribution
from hsmd.daemon.front.tokens.job_queue import JobQueue
from hsmd.daemon.front.tokens.jobs import Completion, Job, Status, completion_of, completion_of_lost
from hsmd.daemon.front.tokens.load_shedding import SHARED_WINDOW, Load, LoadShedder
from hsmd.daemon.front.tokens.worker_channel import WorkerChannel
from hsmd.daemon.front.tokens.worker_rotation import UNBOUNDED, WorkerRotation
from hsmd.daemon.ipc.worker_messages import CHANGES, Failed, Faulty, Probed, Ready, TokenRequest, decode_event
from hsmd.errors import (
    DeadlineExceeded,
    Draining,
    HsmdError,
    ProtocolError,
    Unavailable,
)
from hsmd.protocol.frames import Frame, Kind, encode
from hsmd.protocol.messages import TokenStatus, WorkerStatus

__all__ = ["Completion", "Job", "Status", "TokenPool"]

SWEEP_S = 0.010
"""How often deadlines and stalls are looked at while there are jobs."""
IDLE_SWEEP_S = 0.250
START_LIMIT_S = 20.0
"""A worker that is not ready by then is replaced: it may wait for others' starts, each takes about 0.3 s."""
AWAY_S = 2.0
"""Without any worker for this long, jobs are turned away at once instead of waiting for one."""
_NEVER = float("inf")
PROBE_S = 20.0
"""An idle worker probes the token this often, unless told otherwise."""


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
        probe_s: float = PROBE_S,
        listener: HealthListener | None = None,
        workers: int = UNBOUNDED,
        spare: bool = False,
        recycle_after_operations: int = 0,
        recycle_after_s: float = 0.0,
        crashed: Callable[[Job], None] = lambda job: None,
    ) -> None:
        """`window` is how many jobs a worker holds, `max_queue` how many wait here beyond that. `clock` is monotonic.

        `request_replacement(pid)` asks the launcher for another worker in place of a lost one. `completed` takes what
        one read or one sweep completed; it may submit again. `listener` hears how the token is, see `health`.
        `crashed` hears of jobs during which a worker crashed.
        `workers` of those that are ready work, one more is a spare; when they leave, and why, says `crew`.
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
        self._links: list[WorkerChannel] = []
        self._crew = WorkerRotation(
            workers,
            spare=spare,
            operations=recycle_after_operations,
            age_s=recycle_after_s,
            chance=random.Random(),
        )
        self._ready = self._crew.working
        self._culprits = CrashAttribution(crashed)
        self._control = ControlChannel(event=self._event, lost=self._control_lost)
        self._backlog = JobQueue(self._finish_soon)
        self._entrance = LoadShedder()
        self._next_id = 1
        self._done: list[Completion] = []
        self._pumping = self._reporting = False
        self._sweeping: asyncio.TimerHandle | None = None
        self._next_deadline = _NEVER
        self._away_since = clock()
        self._restarts = 0
        self._closing = False
        self._health = TokenHealth(name, probe_s=probe_s, listener=listener or Nobody(), log=log)
        self._emptied = asyncio.Event()

    # --- the service's side ---

    def turned_away(self, jobs: list[Job]) -> list[tuple[Job, HsmdError]]:
        """Those of `jobs` that must not be submitted now, and why; to be asked before anything is recorded about them."""
        if self._closing:
            return [(job, Draining()) for job in jobs]
        if not self._ready and self._away():
            return [(job, self._unavailable()) for job in jobs]
        workers = len(self._ready)
        load = Load(self._in_hand(), self._max_queue + workers * self._window, workers)
        return self._entrance.turned_away(jobs, self._backlog, load, self._clock())

    def submit(self, jobs: list[Job]) -> None:
        """Take jobs that were not turned away. If the token is lost they come back as FAILED completions, never as exceptions."""
        if self._closing:
            self._fail(jobs, Draining())
            return
        if not self._ready and self._away():
            self._fail(jobs, self._unavailable())
            return
        for job in jobs:
            self._backlog.add(job)
        self._next_deadline = min(self._next_deadline, min([job.deadline for job in jobs], default=_NEVER))
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
            raise Draining
        result = await self._control.ask(request, timeout_s)
        if isinstance(request, CHANGES):
            for link in self._crew.ready:
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
            queued=len(self._backlog),
            workers=[
                WorkerStatus(link.pid, self._worker_state(link), len(link.jobs), self._restarts)
                for link in links
            ],
            abilities=list(ready.abilities) if ready else [],
            breaker=self._health.state.value,
            reason=self._health.reason,
        )

    def ended(self, pid: int, by_signal: int) -> None:
        """The launcher has seen a worker end, by a signal or by itself (0)."""
        self._culprits.ended(pid, by_signal)

    def hold(self, reason: str) -> None:
        """Nobody may log in to the token, for this reason; empty when they may again. Workers that are ready go on."""
        self._health.refusal = reason

    async def close(self, grace_s: float) -> None:
        """Take nothing new, give what is outstanding `grace_s` seconds, then give everything up."""
        self._closing = True
        if self._outstanding():
            self._sweep_later(SWEEP_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._emptied.wait()
        for link in list(self._links):
            self._lose(link, "the daemon stops", replace=False)
        self._control.close()
        self._backlog.clear(Status.NOT_PERFORMED, Draining())
        self._report_done()

    # --- the launcher's side ---

    def attach(self, worker_socket: socket.socket, progress_fd: int, pid: int, control: bool) -> None:
        """A worker was started; the pool owns both descriptors from now on."""
        link = WorkerChannel(worker_socket, progress_fd, pid, control, self._clock())
        self._culprits.begun(pid)
        if self._closing:
            link.close()
            return
        if control:
            self._control.attach(link)
        else:
            self._links.append(link)
            link.watch(self._readable)
        self._health.starting()
        self._sweep_later(IDLE_SWEEP_S)

    # --- handing out ---

    def _pump_soon(self) -> None:
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        if self._backlog:
            now = self._clock()
            window = min(self._window, SHARED_WINDOW) if self._entrance.shared(now) else self._window
            self._backlog.hand_out(self._ready, window, now, self._take_id)

    def _take_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def _outstanding(self) -> int:
        return len(self._backlog) + self._in_hand()

    def _in_hand(self) -> int:
        return sum([len(link.jobs) for link in self._links])

    # --- taking answers ---

    def _readable(self, link: WorkerChannel) -> None:
        done: list[Completion] = []
        why = ""
        try:
            received = link.receive()
            if received is None:
                why = "it ended"
            else:
                self._take(link, received, done)
        except ProtocolError as error:
            why = f"it broke the protocol: {error.text}"
        now = link.moved_at = self._clock()
        if done:
            self._entrance.served([completion.job for completion in done], now - link.read_at)
            link.read_at = now
        if link.alone and not link.jobs:
            link.alone = False
        self._deliver(done)
        if why:
            self._lose(link, why)
        elif self._backlog:
            self._pump_soon()

    def _take(self, link: WorkerChannel, received: list[Frame], done: list[Completion]) -> None:
        """Add what the frames say to `done`. Raises ProtocolError if a worker says what no worker says."""
        jobs = link.jobs
        for kind, request_id, body in received:
            if kind == Kind.EVENT:
                self._event(link, body)
                continue
            job = jobs.get(request_id)
            if job is None:
                raise ProtocolError(f"an answer to request {request_id}, which is not open")
            done.append(completion_of(job, kind, body))
            del jobs[request_id]

    def _event(self, link: WorkerChannel, body: bytes) -> None:
        event = decode_event(body)
        if isinstance(event, Ready):
            if link.ready is not None:
                raise ProtocolError("it was ready before")
            link.ready = event
            link.moved_at = self._clock()
            if not link.control:
                self._crew.enlist(link, link.moved_at)
                self._pump_soon()
            self._log.info("worker.ready", token=self._name, pid=link.pid)
            self._health.ready()
        elif isinstance(event, Failed):
            link.failed = True
            self._log.error("worker.failed", token=self._name, pid=link.pid, reason=event.text)
            if event.login_refused:
                self._health.login_refused(event.text)
            else:
                self._health.not_started(event.text, others=bool(self._crew.ready))
                self._doubt()
        elif isinstance(event, Faulty):
            self._log.critical(
                "token.faulty_signature", token=self._name, pid=link.pid, key=event.key, reason=event.text
            )
        elif isinstance(event, Probed):
            if not link.probing:
                raise ProtocolError("it was not asked to probe the token")
            if event.fault and self._crew.dismiss(link):  # it ends by itself, once it has sent what it has
                self._note_away()
            self._health.answered(link, event, others=bool(self._crew.ready))
            if event.fault:
                self._doubt()

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
        return Unavailable(
            "the token is away", retry_after_ms=int(self._away_s * 500), detail=self._health.reason
        )

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
            self._emptied.set()
            return
        now = self._clock()
        if now >= self._next_deadline:
            self._expire(now)
        for link in list(self._links):
            self._watch(link, now)
        self._health.ask_idle(self._crew.ready, now)
        self._relieve(now)
        control = self._control.link
        if control is not None and control.ready is None and now - control.attached_at >= self._start_limit_s:
            self._control.lose("it did not get ready in time")
        if not self._ready and self._away():
            self._backlog.clear(Status.FAILED, self._unavailable())
        if self._outstanding():
            self._sweep_later(SWEEP_S)
        elif self._links or self._control.link is not None:
            self._sweep_later(IDLE_SWEEP_S)

    def _expire(self, now: float) -> None:
        expired: list[Completion] = []
        earliest = self._backlog.sweep(now)
        for link in self._links:
            for job in link.jobs.values():
                if job.expired:
                    continue
                if job.deadline <= now:
                    job.expired = True
                    expired.append(Completion(job, Status.EXPIRED, error=DeadlineExceeded()))
                elif job.deadline < earliest:
                    earliest = job.deadline
        self._next_deadline = earliest
        self._deliver(expired)

    def _watch(self, link: WorkerChannel, now: float) -> None:
        if link.ready is None:
            if now - link.attached_at >= self._start_limit_s:
                link.failed = True
                self._lose(link, "it did not get ready in time")
                self._health.not_started("a worker did not get ready in time", others=bool(self._crew.ready))
            return
        link.moved(now)
        if (link.jobs or link.probing) and now - link.moved_at >= self._stall_s:
            probed = link.probing and not link.jobs
            self._lose(link, f"it made no progress for {self._stall_s} s")
            if probed:
                self._health.stalled(others=bool(self._crew.ready))

    def _relieve(self, now: float) -> None:
        """Let workers go that have done their share."""
        self._crew.relieve(now)
        if self._crew.leaving:
            self._note_away()
        for link in self._crew.left():
            link.close()
            self._links.remove(link)
            self._crew.dismiss(link)
            link.progress.close()
            self._log.info("worker.recycled", token=self._name, pid=link.pid, count=link.sent)
            self._request_replacement(link.pid)

    # --- losing workers ---

    def _lose(self, link: WorkerChannel, why: str, *, replace: bool = True) -> None:
        """Give a worker up and say of each of its jobs what is known."""
        if link.lost:
            return
        link.close()
        self._links.remove(link)
        if self._crew.dismiss(link):
            self._note_away()
        # Read after the fence was set in close(): what has not begun by now never will.
        started = link.progress.started
        if link.ready is not None and started > link.progress.finished:
            self._culprits.lost(
                link.pid, next((job for job in link.jobs.values() if job.number == started), None)
            )
        if replace:
            self._log.warning(
                "worker.lost", token=self._name, pid=link.pid, reason=why, in_flight=len(link.jobs)
            )
            self._restarts += 1
            self._request_replacement(link.pid)
            if link.ready is not None:
                self._doubt()
            elif not link.failed:
                self._health.ended_silently(others=bool(self._crew.ready))
        done = [completion_of_lost(job, started) for job in link.jobs.values()]
        link.jobs.clear()
        link.progress.close()
        self._deliver(done)
        if self._backlog:
            self._pump_soon()

    def _doubt(self) -> None:
        """Something went wrong with a worker: how is the token?"""
        self._health.ask(self._crew.ready, self._clock())

    def _note_away(self) -> None:
        if not self._ready:
            self._away_since = self._clock()

    def _away(self) -> bool:
        """There is no worker: is there reason to think that there will be none soon?"""
        return self._health.refusing or self._clock() - self._away_since >= self._away_s

    def _control_lost(self, link: WorkerChannel, why: str) -> None:
        self._restarts += 1
        self._log.warning("worker.lost", token=self._name, pid=link.pid, reason=why)
        self._request_replacement(link.pid)

    # --- words for status ---

    def _state(self) -> str:
        if self._ready:
            return "ready"
        if self._health.refusal:
            return "login-refused"
        return "away" if self._away() else "starting"

    def _worker_state(self, link: WorkerChannel) -> str:
        if link.ready is None:
            return "starting"
        if link in self._crew.spares:
            return "spare"
        if not link.jobs:
            return "ready"
        return "stalled" if self._clock() - link.moved_at > self._stall_s / 2 else "busy"
