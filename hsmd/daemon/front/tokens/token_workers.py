"""The signing workers of one token, from their start to their end: which are ready, which hang, which have served their time.

A worker is lost when its socket closes, when it has jobs and makes no progress for `stall_s`, or when it is not ready in time.
Its progress page then tells its jobs apart: those up to `started` may have used the key (UNKNOWN), those beyond have not
(NOT_PERFORMED), and never will, because the page's fence is set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hsmd.daemon.front.tokens.circuit_breaker import TokenHealth
from hsmd.daemon.front.tokens.crash_attribution import CrashAttribution
from hsmd.daemon.front.tokens.jobs import Completion
from hsmd.daemon.front.tokens.key_announcements import KeyAnnouncements
from hsmd.daemon.front.tokens.token_changes import TokenChanges
from hsmd.daemon.front.tokens.worker_channel import MANY_KEYS, WorkerChannel
from hsmd.daemon.front.tokens.worker_rotation import WorkerRotation
from hsmd.daemon.ipc.worker_messages import Failed, Faulty, LookedUp, Probed, Ready, decode_event
from hsmd.errors import ProtocolError
from hsmd.system.repetition import Repetition


class TokenWorkers:
    """The workers of one token that sign, and what those and the control worker report. Times are monotonic seconds."""

    def __init__(
        self,
        name: str,
        *,
        rotation: WorkerRotation,
        changes: TokenChanges,
        keys: KeyAnnouncements,
        health: TokenHealth,
        crashes: CrashAttribution,
        clock: Callable[[], float],
        stall_s: float,
        start_limit_s: float,
        away_s: float,
        request_replacement: Callable[[int], None],
        usable: Callable[[], None],
        gave_up: Callable[[list[Completion]], None],
        log: Any,
    ) -> None:
        """`usable` is called when a worker can be given jobs, `gave_up` with the jobs of one that was lost.

        `request_replacement(pid)` asks the launcher for another worker in place of this one.
        """
        self.all: list[WorkerChannel] = []
        """Those that are starting, ready or leaving."""
        self.restarts = 0
        """How many were replaced because they were lost, the control worker's included."""
        self._name = name
        self._rotation = rotation
        self._working = rotation.working
        self._changes = changes
        self._keys = keys
        self._health = health
        self._crashes = crashes
        self._clock = clock
        self._stall_s = stall_s
        self._start_limit_s = start_limit_s
        self._away_s = away_s
        self._away_since = clock()
        self._request_replacement = request_replacement
        self._usable = usable
        self._gave_up = gave_up
        self._log = log
        self._failures = Repetition(clock)

    # --- what the pool asks ---

    @property
    def away(self) -> bool:
        """Whether there is no worker, and the token is not expected to get one soon."""
        if self._working:
            return False
        return self._health.refusing or self._clock() - self._away_since >= self._away_s

    @property
    def in_hand(self) -> int:
        """How many jobs they have."""
        return sum([len(worker.jobs) for worker in self.all])

    def have_many_keys(self) -> bool:
        """Whether there are so many keys that to read them all takes a worker long."""
        return any(worker.keys >= MANY_KEYS for worker in self._rotation.ready)

    def state(self) -> str:
        """The token's state, as `hsmd status` names it."""
        if self._working:
            return "ready"
        if self._health.refusal:
            return "login-refused"
        return "away" if self.away else "starting"

    def state_of(self, worker: WorkerChannel) -> str:
        """A worker's state, as `hsmd status` names it."""
        if worker.ready is None:
            return "starting"
        if self._rotation.is_spare(worker):
            return "spare"
        if not worker.jobs:
            return "ready"
        return "stalled" if self._clock() - worker.moved_at > self._stall_s / 2 else "busy"

    # --- starts and reports ---

    def add(self, worker: WorkerChannel, readable: Callable[[WorkerChannel], None]) -> None:
        """A worker was started; `readable` is called when it has sent something."""
        self.all.append(worker)
        worker.watch(readable)

    def event(self, worker: WorkerChannel, body: bytes) -> None:
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
            self._usable()
        self._failures.forget()
        self._log.info("worker.ready", token=self._name, pid=worker.pid)
        self._health.ready()

    def _not_started(self, worker: WorkerChannel, event: Failed) -> None:
        worker.failed = worker.told_why = True
        if count := self._failures.count(event.text):
            self._log.error("worker.failed", token=self._name, pid=worker.pid, reason=event.text, count=count)
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
        self._usable()

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

    def _probe(self) -> None:
        """Something went wrong with a worker: have the others probe the token."""
        self._health.ask(self._rotation.ready, self._clock())

    def _note_away(self) -> None:
        if not self._working:
            self._away_since = self._clock()

    # --- regular checks ---

    def note_progress(self) -> None:
        """Note which of them have made progress by now."""
        now = self._clock()
        for worker in self.all:
            worker.moved(now)

    def check(self, now: float) -> None:
        """Give up those that hang or do not get ready, have idle ones probe the token, and retire those that have served."""
        for worker in list(self.all):
            self._watch(worker, now)
        self._keys.proceed()
        self._health.ask_idle(self._rotation.ready, now)
        self._retire(now)

    def _watch(self, worker: WorkerChannel, now: float) -> None:
        worker.moved(now)
        if worker.ready is None:
            if now - worker.moved_at >= self._start_limit_s:
                worker.failed = True
                self.lose(worker, "it did not get ready in time")
                self._health.not_started(
                    "a worker did not get ready in time", others=bool(self._rotation.ready)
                )
            return
        if self._changes.stalled(worker, now, self._stall_s):
            probed = worker.probing and not worker.jobs
            self.lose(worker, f"it made no progress for {now - worker.moved_at:.1f} s")
            if probed:
                self._health.stalled(others=bool(self._rotation.ready))

    def _retire(self, now: float) -> None:
        self._rotation.retire_due(now)
        if self._rotation.leaving:
            self._note_away()
        for worker in self._rotation.left():
            worker.close()
            self.all.remove(worker)
            self._rotation.remove(worker)
            self._keys.lost(worker)
            worker.progress.close()
            self._log.info("worker.recycled", token=self._name, pid=worker.pid, count=worker.sent)
            self._request_replacement(worker.pid)

    # --- losses ---

    def lose(self, worker: WorkerChannel, why: str, *, replace: bool = True) -> None:
        """Give a worker up, and its jobs."""
        if worker.lost:
            return
        worker.close()
        self.all.remove(worker)
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
            self._replace(worker, why, in_flight=len(worker.jobs))
            if worker.ready is not None:
                self._probe()
            elif not worker.failed:
                self._health.ended_silently(others=bool(self._rotation.ready))
        done = worker.give_up_jobs(started)
        worker.progress.close()
        self._gave_up(done)

    def control_lost(self, worker: WorkerChannel, why: str) -> None:
        """The control worker was given up."""
        self._replace(worker, why)

    def _replace(self, worker: WorkerChannel, why: str, **details: object) -> None:
        if not worker.told_why:
            self._log.warning("worker.lost", token=self._name, pid=worker.pid, reason=why, **details)
        self.restarts += 1
        self._request_replacement(worker.pid)
