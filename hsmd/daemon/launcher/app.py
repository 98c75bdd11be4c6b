"""The launcher behind `hsmd serve`: starts the front process and the token workers, and restarts those that end.

It touches neither network nor token. It is the only process that starts and kills processes and changes users, and it is kept
small for that. It exchanges the messages of `hsmd.daemon.ipc.launcher_messages` with the front.

A worker that ends is replaced. When the front ends, its workers end too (their sockets are closed), and all are started
again. When the launcher ends, so does the front.
"""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hsmd import observe
from hsmd.daemon.config.settings import Config
from hsmd.daemon.ipc.launcher_messages import (
    AnyToFront,
    AnyToLauncher,
    Drain,
    FrontReady,
    PermitStarts,
    Reload,
    Reloaded,
    ReplaceWorker,
)
from hsmd.daemon.launcher import config_check
from hsmd.daemon.launcher.backoff import Backoff
from hsmd.daemon.launcher.front_process import FrontProcess
from hsmd.daemon.launcher.supervisor import Supervisor
from hsmd.errors import ConfigurationError
from hsmd.system.process import harden
from hsmd.system.sd_notify import notify

READY_S = 10.0
"""How long the service manager is not told that the daemon is ready, while its first workers log in to their tokens."""
STOP_S = 3.0
"""Time for processes to end after the drain before they are killed."""

log = observe.logger()


def serve(config_path: Path, *, ready: Callable[[dict[str, Any]], None] = lambda notice: None) -> int:
    """Run a daemon until SIGTERM or SIGINT; returns its exit status.

    `ready` is called once, with `addresses` and `host_key`, when the daemon first accepts connections. Raises
    ConfigurationError if the file is wrong.
    """
    config = config_check.load(config_path)
    harden()
    _raise_memory_lock_limit()
    observe.configure("launcher", config.log_level)
    if (config.users.front or config.users.workers) and os.geteuid() != 0:
        log.warning("users.not_changed", reason="only root can change users; all processes run as this one")
    return _Launcher(config, ready).run()


class _Launcher:
    def __init__(self, config: Config, ready: Callable[[dict[str, Any]], None]) -> None:
        self._config = config
        self._on_ready = ready
        self._front: FrontProcess | None = None
        self._backoff = Backoff()
        self._supervisor = Supervisor(config, self._send)
        self._selector = selectors.DefaultSelector()
        self._reloading: Config | None = None
        self._stopping_until: float | None = None
        self._announced = False
        self._announce_by: float | None = None
        """When the service manager is told at the latest; None if there is nothing to tell."""
        self._exit_status = 0

    # --- life cycle ---

    def run(self) -> int:
        wake, signals = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(signals)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        self._selector.register(wake, selectors.EVENT_READ, "signals")
        self._start_due()
        while not self._finished():
            for key, _ in self._selector.select(self._timeout_s()):
                if key.data == "signals":
                    self._handle_signals(os.read(wake, 1024))
                else:
                    self._receive()
            self._reap()
            self._start_due()
            self._tell_service_manager(time.monotonic())
        self._kill_everything()
        return self._exit_status

    def _finished(self) -> bool:
        if self._stopping_until is None:
            return False
        ended = self._front is None and not self._supervisor.running
        return ended or time.monotonic() >= self._stopping_until

    def _timeout_s(self) -> float | None:
        due = (self._next_step(), self._announce_by, self._supervisor.next_kill())
        until = min((each for each in due if each is not None), default=None)
        return None if until is None else max(0.0, until - time.monotonic())

    def _next_step(self) -> float | None:
        """When the stop is over, or the next process is started."""
        if self._stopping_until is not None:
            return self._stopping_until
        if self._front is None:
            return self._backoff.next_start
        return None if self._front.closed else self._supervisor.next_start()

    def _handle_signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number in (signal.SIGTERM, signal.SIGINT):
                self._drain()
            elif number == signal.SIGHUP:
                self._reload()

    def _drain(self) -> None:
        if self._stopping_until is not None:
            return
        log.info("launcher.draining")
        notify("STOPPING=1")
        self._stopping_until = time.monotonic() + self._config.limits.drain_s + STOP_S
        self._send(Drain())

    def _reload(self) -> None:
        """Read the file again. A faulty file changes nothing; a good one is applied by the front first, then here."""
        try:
            self._reloading = config_check.load(self._config.path)
        except ConfigurationError as error:
            for fault in error.faults:
                log.error("reload.refused", reason=fault)
            notify(f"STATUS=reload refused: {error.faults[0]}")
            return
        if self._front is None:
            self._reloaded(True)
        else:
            self._send(Reload())

    def _reloaded(self, applied: bool) -> None:
        config, self._reloading = self._reloading, None
        if config is not None and applied:
            self._config = config
            observe.configure("launcher", config.log_level)
            self._supervisor.apply(config)
            notify(self._status())
        elif config is not None:
            notify("STATUS=reload refused, the settings before are in effect; the log has the reason")

    def _status(self) -> str:
        addresses = (*self._config.listen.addresses, *self._config.listen.operator_addresses)
        return f"STATUS=serving at {', '.join(map(str, addresses))}"

    # --- processes ---

    def _start_due(self) -> None:
        if self._stopping_until is not None:
            return
        now = time.monotonic()
        if self._front is None and now >= self._backoff.next_start:
            self._start_front(now)
        if self._front is not None and not self._front.closed:
            self._supervisor.start_due(now)

    def _start_front(self, now: float) -> None:
        self._backoff.started(now)
        try:
            self._front = FrontProcess.start(self._config)
        except OSError as error:
            log.error("front.not_started", error=error.strerror)
            self._retry_front(1, now)
            return
        self._selector.register(self._front.link, selectors.EVENT_READ, "front")

    def _reap(self) -> None:
        now = time.monotonic()
        self._supervisor.reap(now, stopping=self._stopping_until is not None)
        if self._front is not None and (status := self._front.process.poll()) is not None:
            self._front_ended(self._front, status, now)

    def _front_ended(self, front: FrontProcess, status: int, now: float) -> None:
        if not front.closed:
            self._selector.unregister(front.link)
        front.link.close()
        self._front = None
        self._supervisor.start_over(now)
        if self._stopping_until is not None:
            return
        log.error("front.ended", pid=front.pid, code=status)
        self._reloaded(True)  # the next front reads the new file anyway
        self._retry_front(status if status > 0 else 1, now)

    def _retry_front(self, status: int, now: float) -> None:
        """Start the front again later. If it never was ready, exit instead: an operator has to fix something."""
        if not self._announced:
            self._exit_status = status
            self._stopping_until = now + STOP_S
            return
        self._backoff.ended(now)

    def _kill_everything(self) -> None:
        self._supervisor.kill()
        if self._front is not None:
            log.error("front.killed", pid=self._front.pid, reason="it did not end in time")
            self._front.process.kill()
            self._front.process.wait()
            self._exit_status = 1

    # --- messages ---

    def _send(self, message: AnyToFront, descriptors: Sequence[int] = ()) -> None:
        if self._front is not None:
            self._front.send(message, descriptors)

    def _receive(self) -> None:
        if self._front is None:
            return
        message = self._front.receive()
        if message is not None:
            self._handle(message)
        elif self._front.closed:
            self._selector.unregister(self._front.link)

    def _handle(self, message: AnyToLauncher) -> None:
        match message:
            case FrontReady():
                self._announce(message)
            case Reloaded(applied):
                self._reloaded(applied)
            case ReplaceWorker(pid):
                self._supervisor.replace(pid, time.monotonic())
            case PermitStarts(token, starts, cleared):
                self._supervisor.permit(token, starts, cleared=cleared)

    def _announce(self, front: FrontReady) -> None:
        if not self._announced:
            self._announced = True
            self._announce_by = time.monotonic() + READY_S
            self._on_ready({"addresses": front.addresses, "host_key": front.host_key})

    def _tell_service_manager(self, now: float) -> None:
        """Say READY=1 when keys can be used, so that what is started or restarted after this daemon can rely on it.

        A token that is away holds it up only for as long as it takes to notice that.
        """
        if self._announce_by is not None and (self._supervisor.settled or now >= self._announce_by):
            self._announce_by = None
            notify(f"READY=1\n{self._status()}")


def _raise_memory_lock_limit() -> None:
    """Let workers lock memory: they inherit the limit, which only root may raise. They log a limit that is too low."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
