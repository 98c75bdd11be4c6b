"""Supervisor: the token workers that should be running, when to start which, and what the end of one means.

The launcher's part that knows about tokens. It starts workers and watches their processes; whether one is ready, stalled or
still has work is for the front to know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hsmd import observe
from hsmd.daemon.config.settings import Config, TokenConfig
from hsmd.daemon.ipc.launcher_messages import AnyToFront, Starts, WorkerEnded, WorkerStarted
from hsmd.daemon.ipc.spawn import EXIT_LOGIN_REFUSED, SpawnedWorker, spawn_worker
from hsmd.daemon.ipc.worker_settings import worker_settings

FIRST_DELAY_S = 0.05
LONGEST_DELAY_S = 1.0
"""Restarts are never further apart than this, so that a token or front that comes back is used within two seconds."""
HEALTHY_S = 5.0
"""A process that lived this long starts the next series of restarts without delay."""

log = observe.logger()

TellFront = Callable[[AnyToFront, Sequence[int]], None]
"""Sends a message with descriptors to the front."""


@dataclass(slots=True, eq=False)
class WorkerSlot:
    """One worker that should be running, and how its restarts go.

    `generation` grows whenever the settings of the token change: the front serves with one generation at a time.
    """

    token: TokenConfig
    control: bool
    generation: int
    worker: SpawnedWorker | None = None
    started_at: float = 0.0
    delay_s: float = 0.0
    next_start: float = 0.0


@dataclass(frozen=True, slots=True)
class StartPermission:
    """How many workers may be started for a token, as the front says.

    `cleared`: the next start may try the PIN in spite of the token's warnings; an operator has looked.
    """

    starts: Starts = Starts.NONE
    cleared: bool = False


class Supervisor:
    """The workers of all tokens. Times are monotonic.

    Nothing is started for a token before the front gives leave: it asks the store whether its PIN was refused.
    """

    def __init__(self, config: Config, tell_front: TellFront) -> None:
        self._config = config
        self._tell_front = tell_front
        self._generation = 0
        self._places: list[WorkerSlot] = []
        self._retired: list[WorkerSlot] = []
        self._leave: dict[str, StartPermission] = {}
        self.apply(config)

    def apply(self, config: Config) -> None:
        """Have the workers that `config` wants. A token that did not change keeps its own; another gets new ones beside the
        old, which the front sends away as soon as the new ones are ready."""
        self._config = config
        self._generation += 1
        places: list[WorkerSlot] = []
        for token in config.tokens:
            kept = [place for place in self._places if place.token == token]
            for place in kept:
                place.delay_s, place.next_start = 0.0, 0.0
            places += kept or _places_of(token, self._generation)
        self._retired += [place for place in self._places if place not in places]
        self._places = places

    def allow(self, token: str, starts: Starts, *, cleared: bool) -> None:
        """The front's leave for a token, until the next one. With more leave than before nothing waits any longer."""
        before = self._leave.get(token, StartPermission())
        self._leave[token] = StartPermission(starts, cleared)
        if starts is Starts.ALL and before.starts is not Starts.ALL:
            for place in self._places:
                if place.token.name == token and place.worker is None:
                    place.delay_s, place.next_start = 0.0, 0.0

    def start_due(self, now: float) -> None:
        """Start every worker whose time has come."""
        for place in self._waiting():
            if now >= place.next_start:
                self._start(place, now)

    def next_start(self) -> float | None:
        """When `start_due` has something to do again; None if nothing is waiting."""
        return min((place.next_start for place in self._waiting()), default=None)

    def replace(self, pid: int) -> None:
        """Kill a worker that the front has given up; `reap` sees it end."""
        for place in self._with_worker():
            if place.worker is not None and place.worker.pid == pid:
                log.warning("worker.replaced", token=place.token.name, pid=pid)
                place.worker.process.kill()

    def reap(self, now: float, *, stopping: bool) -> None:
        """Note which workers have ended."""
        for place in self._with_worker():
            if place.worker is not None and (status := place.worker.process.poll()) is not None:
                self._ended(place, status, now, stopping)
        self._retired = [place for place in self._retired if place.worker is not None]

    def start_over(self) -> None:
        """The front has gone: nobody needs the workers it had. Its successor gets new ones as soon as it gives leave."""
        self.kill()
        self._leave.clear()
        for place in self._places:
            if place.worker is not None:
                self._retired.append(replace(place))
            place.worker, place.delay_s, place.next_start = None, 0.0, 0.0

    def kill(self) -> None:
        """Kill all workers. One that hangs in the kernel ends later; nobody waits for it."""
        for place in self._with_worker():
            if place.worker is not None:
                place.worker.process.kill()

    def _waiting(self) -> list[WorkerSlot]:
        """The places that lack a worker and have leave to get one."""
        first: dict[str, WorkerSlot] = {}
        for place in self._places:
            first.setdefault(place.token.name, place)
        waiting = []
        for place in self._places:
            starts = self._leave.get(place.token.name, StartPermission()).starts
            if place.worker is None and (
                starts is Starts.ALL or (starts is Starts.ONE and first[place.token.name] is place)
            ):
                waiting.append(place)
        return waiting

    def _with_worker(self) -> list[WorkerSlot]:
        return [place for place in (*self._places, *self._retired) if place.worker is not None]

    def _start(self, place: WorkerSlot, now: float) -> None:
        place.started_at = now
        leave = self._leave.get(place.token.name, StartPermission())
        self._leave[place.token.name] = replace(leave, cleared=False)
        try:
            settings = worker_settings(
                self._config, place.token, control=place.control, cleared=leave.cleared
            )
            worker = spawn_worker(settings, environment=dict(place.token.environment))
        except OSError as error:
            log.error("worker.not_started", token=place.token.name, error=error.strerror)
            _postpone(place, now)
            return
        place.worker = worker
        self._tell_front(
            WorkerStarted(place.token.name, place.generation, worker.pid, place.control),
            [worker.socket.fileno(), worker.progress_fd],
        )
        worker.release()

    def _ended(self, place: WorkerSlot, status: int, now: float, stopping: bool) -> None:
        assert place.worker is not None
        pid, place.worker = place.worker.pid, None
        self._tell_front(WorkerEnded(place.token.name, pid, signal=max(-status, 0)), [])
        if not stopping and place not in self._retired:
            log.warning("worker.ended", token=place.token.name, pid=pid, code=status)
        if status == EXIT_LOGIN_REFUSED:
            name = place.token.name
            log.error("token.login_refused", token=name, reason=f"mend the PIN, then hsmd token clear {name}")
            self._leave[name] = StartPermission()
        _postpone(place, now)


def next_delay(delay_s: float, lived_s: float) -> float:
    """How long to wait before the next start of a process that ended after `lived_s`, having waited `delay_s` before."""
    if lived_s >= HEALTHY_S:
        return 0.0
    return min(max(delay_s * 2, FIRST_DELAY_S), LONGEST_DELAY_S)


def _postpone(place: WorkerSlot, now: float) -> None:
    place.delay_s = next_delay(place.delay_s, now - place.started_at)
    place.next_start = now + place.delay_s


def _places_of(token: TokenConfig, generation: int) -> list[WorkerSlot]:
    signing = [
        WorkerSlot(token, control=False, generation=generation) for _ in range(token.workers + token.spare)
    ]
    return [*signing, WorkerSlot(token, control=True, generation=generation)]
