"""Supervisor of the token workers: which should be running, when to start each, and what follows when one ends.

It starts workers and watches their processes. Only the front knows whether a worker is ready, busy or stalled.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from hsmd import observe
from hsmd.daemon.config.settings import Config, TokenConfig
from hsmd.daemon.ipc.launcher_messages import AnyToFront, Starts, WorkerEnded, WorkerStarted
from hsmd.daemon.ipc.spawn import EXIT_LOGIN_REFUSED, EXIT_TOKEN_UNAVAILABLE, SpawnedWorker, spawn_worker
from hsmd.daemon.ipc.worker_settings import worker_settings
from hsmd.daemon.launcher.backoff import Backoff
from hsmd.system.repetition import Repetition

log = observe.logger()

END_S = 5.0
"""Time for a worker to end before it is killed: it holds SIGTERM back while it logs in to the token."""

SendToFront = Callable[[AnyToFront, Sequence[int]], None]
"""Sends a message with descriptors to the front."""


@dataclass(slots=True, eq=False)
class WorkerSlot:
    """One worker that should be running.

    `generation` grows whenever the settings of the token change; the front uses one generation at a time.
    """

    token: TokenConfig
    control: bool
    generation: int
    worker: SpawnedWorker | None = None
    backoff: Backoff = field(default_factory=Backoff)
    kill_at: float | None = None
    """When the worker, which has been told to end, is killed."""

    def end(self, now: float) -> None:
        """Have the worker end: at once, or after its login. SIGCONT is for one that is stopped."""
        if self.worker is not None:
            self.worker.process.send_signal(signal.SIGTERM)
            self.worker.process.send_signal(signal.SIGCONT)
            self.kill_at = now + END_S

    def ended(self) -> None:
        """The worker is another's or no more."""
        self.worker = self.kill_at = None


@dataclass(frozen=True, slots=True)
class StartPermission:
    """How many workers the front permits for a token.

    `cleared`: the next start may try the PIN despite the token's warnings, because an operator has cleared the token.
    """

    starts: Starts = Starts.NONE
    cleared: bool = False
    only: WorkerSlot | None = None
    """With `Starts.ONE`, the slot whose worker is started, once it has been chosen."""


class Supervisor:
    """The workers of all tokens. Times are monotonic.

    No worker of a token is started before the front permits it, because the front knows from the store whether the PIN was
    refused.
    """

    def __init__(self, config: Config, send: SendToFront) -> None:
        self._config = config
        self._send = send
        self._generation = 0
        self._slots: list[WorkerSlot] = []
        self._retired: list[WorkerSlot] = []
        self._permissions: dict[str, StartPermission] = {}
        self._repeated = Repetition(time.monotonic)
        self._settled: set[str] = set()
        self.apply(config)

    @property
    def settled(self) -> bool:
        """Whether each token has been logged in to, or it is known that it could not be."""
        return self._settled.issuperset(token.name for token in self._config.tokens)

    def apply(self, config: Config) -> None:
        """Run the workers that `config` asks for.

        The workers of an unchanged token keep running. A changed token gets new workers beside the old ones, which the front
        stops as soon as new ones are ready.
        """
        self._config = config
        self._generation += 1
        slots: list[WorkerSlot] = []
        for token in config.tokens:
            kept = [slot for slot in self._slots if slot.token == token]
            for slot in kept:
                slot.backoff.reset()
            slots += kept or _slots_of(token, self._generation)
        self._retired += [slot for slot in self._slots if slot not in slots]
        self._slots = slots

    def permit(self, token: str, starts: Starts, *, cleared: bool) -> None:
        """Replace a token's start permission. If all workers may now be started, missing ones are started without delay."""
        before = self._permission(token)
        if starts is not Starts.ONE:  # of which one tries the token first
            self._settled.add(token)
        self._permissions[token] = StartPermission(
            starts, cleared, before.only if before.starts is starts else None
        )
        if starts is Starts.ALL and before.starts is not Starts.ALL:
            for slot in self._slots:
                if slot.token.name == token and slot.worker is None:
                    slot.backoff.reset()

    def start_due(self, now: float) -> None:
        """Start every worker that is missing, permitted and due."""
        for slot in self._startable():
            if now >= slot.backoff.next_start:
                self._start(slot, now)

    def next_start(self) -> float | None:
        """When `start_due` must be called next; None if no worker can be started."""
        return min((slot.backoff.next_start for slot in self._startable()), default=None)

    def next_kill(self) -> float | None:
        """When `reap` must be called next; None if all workers that were told to end have ended."""
        return min((slot.kill_at for slot, _ in self._running() if slot.kill_at is not None), default=None)

    @property
    def running(self) -> bool:
        """Whether there is a worker, be it one that was told to end."""
        return any(self._running())

    def replace(self, pid: int, now: float) -> None:
        """End a worker that the front has given up. Process ids that are not workers' are ignored."""
        for slot, worker in self._running():
            if worker.pid == pid:
                if count := self._to_be_logged(slot, "replaced"):
                    log.warning("worker.replaced", token=slot.token.name, pid=pid, count=count)
                slot.end(now)

    def reap(self, now: float, *, stopping: bool) -> None:
        """Collect workers that have ended and tell the front; kill those that were told to end and have not."""
        for slot, worker in list(self._running()):
            if (status := worker.process.poll()) is not None:
                self._ended(slot, worker.pid, status, now, stopping)
            elif slot.kill_at is not None and now >= slot.kill_at:
                worker.process.kill()
                slot.kill_at = None
        self._retired = [slot for slot in self._retired if slot.worker is not None]

    def start_over(self, now: float) -> None:
        """The front has ended: end its workers. The next front gets new ones as soon as it permits them."""
        self._permissions.clear()
        for slot in self._retired:
            slot.end(now)
        for slot in self._slots:
            if slot.worker is not None:
                slot.end(now)
                self._retired.append(replace(slot, backoff=Backoff()))
            slot.ended()
            slot.backoff.reset()

    def kill(self) -> None:
        """Kill all workers without waiting for their end: one may hang in the kernel."""
        for _, worker in self._running():
            worker.process.kill()

    def _permission(self, token: str) -> StartPermission:
        return self._permissions.get(token, StartPermission())

    def _startable(self) -> list[WorkerSlot]:
        """The slots without a worker that may get one."""
        return [slot for slot in self._slots if slot.worker is None and self._is_permitted(slot)]

    def _is_permitted(self, slot: WorkerSlot) -> bool:
        """Whether a slot without a worker may get one. With `Starts.ONE` that is the first that misses one, and stays it."""
        permission = self._permission(slot.token.name)
        if permission.starts is not Starts.ONE:
            return permission.starts is Starts.ALL
        if permission.only not in self._slots:
            self._permissions[slot.token.name] = permission = replace(permission, only=slot)
        return permission.only is slot

    def _running(self) -> Iterator[tuple[WorkerSlot, SpawnedWorker]]:
        for slot in (*self._slots, *self._retired):
            if slot.worker is not None:
                yield slot, slot.worker

    def _start(self, slot: WorkerSlot, now: float) -> None:
        slot.backoff.started(now)
        permission = self._permission(slot.token.name)
        self._permissions[slot.token.name] = replace(permission, cleared=False)
        try:
            settings = worker_settings(
                self._config, slot.token, control=slot.control, cleared=permission.cleared
            )
            worker = spawn_worker(settings, environment=dict(slot.token.environment))
        except OSError as error:
            if count := self._to_be_logged(slot, "not started"):
                log.error("worker.not_started", token=slot.token.name, error=error.strerror, count=count)
            slot.backoff.ended(now)
            return
        slot.worker = worker
        self._send(
            WorkerStarted(slot.token.name, slot.generation, worker.pid, slot.control),
            [worker.socket.fileno(), worker.progress_fd],
        )
        worker.release()

    def _ended(self, slot: WorkerSlot, pid: int, status: int, now: float, stopping: bool) -> None:
        slot.ended()
        self._settled.add(slot.token.name)
        self._send(WorkerEnded(slot.token.name, pid, signal=max(-status, 0)), [])
        if not stopping and slot not in self._retired and (count := self._to_be_logged(slot, status)):
            log.warning("worker.ended", token=slot.token.name, pid=pid, code=status, count=count)
        if status == EXIT_LOGIN_REFUSED:
            name = slot.token.name
            log.error(
                "token.login_refused", token=name, reason=f"fix the PIN, then run: hsmd token clear {name}"
            )
            self._permissions[name] = StartPermission()
        slot.backoff.ended(now)

    def _to_be_logged(self, slot: WorkerSlot, what: int | str) -> int:
        """How many lines one stands for; 0 for no line. While the token is away, one worker after the other is tried and ends."""
        name = slot.token.name
        repeats = what in (EXIT_TOKEN_UNAVAILABLE, "not started")
        if self._permission(name).starts is Starts.ALL and not repeats:
            return 1
        return self._repeated.count((name, what))


def _slots_of(token: TokenConfig, generation: int) -> list[WorkerSlot]:
    signing = [
        WorkerSlot(token, control=False, generation=generation) for _ in range(token.workers + token.spare)
    ]
    return [*signing, WorkerSlot(token, control=True, generation=generation)]
