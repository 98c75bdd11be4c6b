"""The launcher behind `hsmd serve`: starts front process and token workers, watches them, hands out sockets.

It touches neither network nor token. It is the only process that spawns, kills and changes users, and it is kept small for
that. Launcher and front talk over a SEQPACKET socket pair, one JSON object a packet:

    launcher -> front   {"worker": {"token", "pid", "control"}} with two descriptors: stream socket, progress page
                        {"reload": true}      read hsmd.toml again; it has been found good here
                        {"drain": true}       answer what is open, then exit
    front -> launcher   {"ready": {"addresses": [...], "host_key": "ssh-ed25519 ..."}}
                        {"replace": PID}      this worker is stalled: kill it, start another

A worker that dies is replaced; a front that dies takes its workers along (they see their socket close) and everything is
started anew.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hsmd import observe
from hsmd.daemon import config as configuration
from hsmd.daemon.config import Config, TokenConfig
from hsmd.daemon.token.spawn import EXIT_LOGIN_REFUSED, SpawnedWorker, WorkerSettings, spawn_worker
from hsmd.errors import ConfigurationError

MAX_PACKET_BYTES = 65_536
FIRST_DELAY_S = 0.05
LONGEST_DELAY_S = 1.0
"""Restarts are never further apart than this, so that a token or front that comes back is used within two seconds."""
HEALTHY_S = 5.0
"""A process that lived this long starts the next series of restarts without delay."""
STOP_S = 3.0
"""Time for processes to end after the drain before they are killed."""

log = observe.logger()


@dataclass(slots=True)
class _Place:
    """One worker that should be running: its token, whether it is the control worker, and how its restarts go."""

    token: TokenConfig
    control: bool
    worker: SpawnedWorker | None = None
    started_at: float = 0.0
    delay_s: float = 0.0
    next_start: float = 0.0
    login_refused: bool = False


@dataclass(slots=True)
class _Front:
    """The front process and our end of the socket pair."""

    process: subprocess.Popen[bytes]
    link: socket.socket
    started_at: float
    ready: bool = field(default=False)


def serve(config_path: Path, *, ready: Callable[[dict[str, Any]], None] = lambda addresses: None) -> int:
    """Run a daemon until SIGTERM or SIGINT; returns its exit status.

    `ready` is called with the front's ready notice when the daemon takes connections for the first time. Raises
    ConfigurationError if the file is wrong.
    """
    config = configuration.load(config_path)
    observe.configure("launcher", config.log_level)
    return _Launcher(config, ready).run()


class _Launcher:
    def __init__(self, config: Config, ready: Callable[[dict[str, Any]], None]) -> None:
        self._config = config
        self._on_ready = ready
        self._front: _Front | None = None
        self._front_delay_s = 0.0
        self._front_next_start = 0.0
        self._places = _places(config)
        self._selector = selectors.DefaultSelector()
        self._stopping_until: float | None = None
        self._announced = False
        self._exit_status = 0

    # --- life ---

    def run(self) -> int:
        wake, signals = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(signals)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        self._selector.register(wake, selectors.EVENT_READ, "signals")
        self._start_due()
        while not self._finished():
            for key, _ in self._selector.select(self._wait_s()):
                if key.data == "signals":
                    self._handle_signals(os.read(wake, 1024))
                else:
                    self._handle_front()
            self._reap()
            self._start_due()
        self._kill_everything()
        return self._exit_status

    def _finished(self) -> bool:
        if self._stopping_until is None:
            return False
        return self._front is None or time.monotonic() >= self._stopping_until

    def _wait_s(self) -> float | None:
        now = time.monotonic()
        times = [] if self._stopping_until is None else [self._stopping_until]
        if self._stopping_until is None:
            if self._front is None:
                times.append(self._front_next_start)
            times += [place.next_start for place in self._places if place.worker is None and not place.login_refused]
        return max(0.0, min(times) - now) if times else None

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
        self._stopping_until = time.monotonic() + self._config.limits.drain_s + STOP_S
        self._tell_front({"drain": True})

    def _reload(self) -> None:
        """Read the file again. A fault changes nothing; changed tokens get new workers one after the other."""
        try:
            config = configuration.load(self._config.path)
        except ConfigurationError as error:
            for fault in error.faults:
                log.error("reload.refused", reason=fault)
            return
        before = {(place.token, place.control): place for place in self._places}
        self._config = config
        places = []
        for place in _places(config):
            kept = before.pop((place.token, place.control), None)
            if kept is not None:
                kept.login_refused = False
            places.append(kept or place)
        self._tell_front({"reload": True})
        self._places = places
        for place in before.values():
            _kill(place)
        log.info("reload.done")

    # --- starting ---

    def _start_due(self) -> None:
        if self._stopping_until is not None:
            return
        now = time.monotonic()
        if self._front is None and now >= self._front_next_start:
            self._start_front(now)
        for place in self._places:
            if place.worker is None and not place.login_refused and now >= place.next_start:
                self._start_worker(place, now)

    def _start_front(self, now: float) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [
            sys.executable, "-m", "hsmd.daemon.front",
            "--config", str(self._config.path), "--launcher-fd", str(theirs.fileno()),
        ]  # fmt: skip
        user = self._config.users.front or None
        process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            user=user,
            group=user,
            extra_groups=[] if user else None,
        )
        theirs.close()
        ours.setblocking(False)
        self._selector.register(ours, selectors.EVENT_READ, "front")
        self._front = _Front(process, ours, now)
        for place in self._places:
            if place.worker is not None:
                _kill(place)

    def _start_worker(self, place: _Place, now: float) -> None:
        if self._front is None:
            return
        place.started_at = now
        try:
            place.worker = spawn_worker(_settings(self._config, place), environment=dict(place.token.environment))
        except OSError as error:
            log.error("worker.not_started", token=place.token.name, error=str(error.strerror))
            self._postpone(place, now)
            return
        packet = {"worker": {"token": place.token.name, "pid": place.worker.pid, "control": place.control}}
        descriptors = [place.worker.socket.fileno(), place.worker.progress_fd]
        self._tell_front(packet, descriptors)
        place.worker.release()

    def _tell_front(self, packet: dict[str, Any], descriptors: list[int] | None = None) -> None:
        if self._front is None:
            return
        try:
            socket.send_fds(self._front.link, [json.dumps(packet).encode()], descriptors or [])
        except BlockingIOError:
            log.error("front.deaf", pid=self._front.process.pid)
            self._front.process.kill()
        except OSError:
            log.warning("front.gone", pid=self._front.process.pid)

    # --- watching ---

    def _handle_front(self) -> None:
        if self._front is None:
            return
        try:
            packet = self._front.link.recv(MAX_PACKET_BYTES)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._selector.unregister(self._front.link)
            return
        message = json.loads(packet)
        if "ready" in message:
            self._front.ready = True
            if not self._announced:
                self._announced = True
                self._on_ready(message["ready"])
        if "replace" in message:
            self._replace(message["replace"])

    def _replace(self, pid: int) -> None:
        for place in self._places:
            if place.worker is not None and place.worker.pid == pid:
                log.warning("worker.replaced", token=place.token.name, pid=pid)
                _kill(place)

    def _reap(self) -> None:
        now = time.monotonic()
        for place in self._places:
            if place.worker is None or (status := place.worker.process.poll()) is None:
                continue
            self._worker_ended(place, status, now)
        if self._front is not None and (status := self._front.process.poll()) is not None:
            self._front_ended(self._front, status, now)

    def _worker_ended(self, place: _Place, status: int, now: float) -> None:
        pid = place.worker.pid if place.worker is not None else 0
        place.worker = None
        if self._stopping_until is None:
            log.warning("worker.ended", token=place.token.name, pid=pid, code=status)
        if status == EXIT_LOGIN_REFUSED:
            log.error("token.login_refused", token=place.token.name, reason="mend the PIN, then send SIGHUP")
            for other in self._places:
                other.login_refused = other.login_refused or other.token.name == place.token.name
        self._postpone(place, now)

    def _postpone(self, place: _Place, now: float) -> None:
        place.delay_s = _next_delay(place.delay_s, now - place.started_at)
        place.next_start = now + place.delay_s

    def _front_ended(self, front: _Front, status: int, now: float) -> None:
        link = front.link
        if link.fileno() in self._selector.get_map():
            self._selector.unregister(link)
        link.close()
        self._front = None
        for place in self._places:
            place.delay_s = place.next_start = 0.0
            if place.worker is not None:
                _kill(place)
        if self._stopping_until is not None:
            return
        log.error("front.ended", pid=front.process.pid, code=status)
        if not self._announced:
            self._exit_status = status or 1
            self._stopping_until = now
            return
        self._front_delay_s = _next_delay(self._front_delay_s, now - front.started_at)
        self._front_next_start = now + self._front_delay_s

    def _kill_everything(self) -> None:
        for place in self._places:
            _kill(place)
            if place.worker is not None:
                place.worker.process.wait()
        if self._front is not None:
            self._front.process.kill()
            self._front.process.wait()


def _places(config: Config) -> list[_Place]:
    places = []
    for token in config.tokens:
        places += [_Place(token, control=False) for _ in range(token.workers)]
        places.append(_Place(token, control=True))
    return places


def _settings(config: Config, place: _Place) -> WorkerSettings:
    token = place.token
    return WorkerSettings(
        token=token.name,
        module=str(token.module),
        label=token.label,
        serial=token.serial,
        slot=token.slot,
        pin_file=str(token.pin_file) if token.pin_file else "",
        pin_credential=token.pin_credential,
        verify=token.verify,
        control=place.control,
        log_level=config.log_level,
        user=config.users.workers,
    )


def _kill(place: _Place) -> None:
    if place.worker is not None:
        place.worker.process.kill()


def _next_delay(delay_s: float, lived_s: float) -> float:
    if lived_s >= HEALTHY_S:
        return 0.0
    return min(max(delay_s * 2, FIRST_DELAY_S), LONGEST_DELAY_S)
