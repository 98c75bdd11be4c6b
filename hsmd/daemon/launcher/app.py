"""The launcher behind `hsmd serve`: starts front process and token workers, watches them, hands out sockets.

It touches neither network nor token. It is the only process that starts and kills processes and changes users, and it is kept
small for that. It exchanges the messages of `hsmd.daemon.ipc.launcher_messages` with the front.

A worker that dies is replaced; a front that dies takes its workers along (they see their socket close) and everything is
started anew. A front that loses its launcher ends as well.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import resource
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hsmd
from hsmd import observe
from hsmd.daemon.config import reader as configuration
from hsmd.daemon.config.settings import Config, UsersConfig
from hsmd.daemon.ipc import sandbox
from hsmd.daemon.ipc.launcher_messages import (
    MAX_PACKET_BYTES,
    AnyToFront,
    Drain,
    FrontReady,
    PermitStarts,
    Reload,
    Reloaded,
    ReplaceWorker,
    decode_for_launcher,
    encode,
)
from hsmd.daemon.launcher.supervisor import Supervisor, next_delay
from hsmd.errors import ConfigurationError, ProtocolError
from hsmd.system.process import harden
from hsmd.system.sd_notify import notify

STOP_S = 3.0
"""Time for processes to end after the drain before they are killed."""

log = observe.logger()


@dataclass(slots=True)
class _Front:
    """The front process and our end of the socket pair; `ending` once it has closed its own."""

    process: subprocess.Popen[bytes]
    link: socket.socket
    started_at: float
    ending: bool = False


def serve(config_path: Path, *, ready: Callable[[dict[str, Any]], None] = lambda addresses: None) -> int:
    """Run a daemon until SIGTERM or SIGINT; returns its exit status.

    `ready` is called with the front's ready notice when the daemon takes connections for the first time. Raises
    ConfigurationError if the file is wrong.
    """
    config = _load(config_path)
    harden()
    _let_workers_lock_memory()
    observe.configure("launcher", config.log_level)
    if (config.users.front or config.users.workers) and os.geteuid() != 0:
        log.warning("users.not_changed", reason="only root can change users; all processes run as this one")
    return _Launcher(config, ready).run()


class _Launcher:
    def __init__(self, config: Config, ready: Callable[[dict[str, Any]], None]) -> None:
        self._config = config
        self._on_ready = ready
        self._front: _Front | None = None
        self._front_delay_s = 0.0
        self._front_next_start = 0.0
        self._places = Supervisor(config, self._tell_front)
        self._selector = selectors.DefaultSelector()
        self._reloading: Config | None = None
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
        if self._stopping_until is not None:
            until: float | None = self._stopping_until
        elif self._front is None:
            until = self._front_next_start
        else:
            until = None if self._front.ending else self._places.next_start()
        return None if until is None else max(0.0, until - time.monotonic())

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
        self._tell_front(Drain())

    def _reload(self) -> None:
        """Read the file again. A fault changes nothing; otherwise the front goes first, then workers follow."""
        try:
            self._reloading = _load(self._config.path)
        except ConfigurationError as error:
            for fault in error.faults:
                log.error("reload.refused", reason=fault)
            return
        if self._front is None:
            self._reloaded(True)
        else:
            self._tell_front(Reload())

    def _reloaded(self, good: bool) -> None:
        config, self._reloading = self._reloading, None
        if config is not None and good:
            self._config = config
            observe.configure("launcher", config.log_level)
            self._places.apply(config)

    # --- starting ---

    def _start_due(self) -> None:
        if self._stopping_until is not None:
            return
        now = time.monotonic()
        if self._front is None and now >= self._front_next_start:
            self._start_front(now)
        if self._front is not None and not self._front.ending:
            self._places.start_due(now)

    def _start_front(self, now: float) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            process = subprocess.Popen(
                front_command(self._config.path, theirs.fileno()),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(Path(hsmd.__file__).parents[1])},
                process_group=0,  # Ctrl-C is for the launcher only
                **_as_user(self._config.users.front),
            )
        except OSError as error:
            log.error("front.not_started", error=error.strerror)
            ours.close()
            self._front_failed(1, now, 0.0)
            return
        finally:
            theirs.close()
        ours.setblocking(False)
        self._selector.register(ours, selectors.EVENT_READ, "front")
        self._front = _Front(process, ours, now)

    def _tell_front(self, message: AnyToFront, descriptors: Sequence[int] = ()) -> None:
        if self._front is None:
            return
        try:
            socket.send_fds(self._front.link, [encode(message)], descriptors)
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
            self._front_closed(self._front)
            return
        try:
            message = decode_for_launcher(packet)
        except ProtocolError as error:
            log.error("front.malformed", pid=self._front.process.pid, reason=error.text)
            self._front.process.kill()
            self._front_closed(self._front)
            return
        match message:
            case FrontReady():
                self._front_ready(message)
            case Reloaded(applied):
                self._reloaded(applied)
            case ReplaceWorker(pid):
                self._places.replace(pid)
            case PermitStarts(token, starts, cleared):
                self._places.allow(token, starts, cleared=cleared)

    def _front_ready(self, message: FrontReady) -> None:
        if not self._announced:
            self._announced = True
            notify("READY=1")
            self._on_ready({"addresses": message.addresses, "host_key": message.host_key})

    def _front_closed(self, front: _Front) -> None:
        """Receive nothing more from a front that has closed its socket or was killed."""
        front.ending = True
        self._selector.unregister(front.link)

    def _reap(self) -> None:
        now = time.monotonic()
        self._places.reap(now, stopping=self._stopping_until is not None)
        if self._front is not None and (status := self._front.process.poll()) is not None:
            self._front_ended(self._front, status, now)

    def _front_ended(self, front: _Front, status: int, now: float) -> None:
        link = front.link
        if link.fileno() in self._selector.get_map():
            self._selector.unregister(link)
        link.close()
        self._front = None
        self._places.start_over()
        if self._stopping_until is not None:
            return
        log.error("front.ended", pid=front.process.pid, code=status)
        self._reloaded(True)  # its successor reads the new file anyway
        self._front_failed(status if status > 0 else 1, now, now - front.started_at)

    def _front_failed(self, status: int, now: float, lived_s: float) -> None:
        """Try again later, unless it never worked: then somebody has to mend something."""
        if not self._announced:
            self._exit_status = status
            self._stopping_until = now
            return
        self._front_delay_s = next_delay(self._front_delay_s, lived_s)
        self._front_next_start = now + self._front_delay_s

    def _kill_everything(self) -> None:
        self._places.kill()
        if self._front is not None:
            log.error("front.killed", pid=self._front.process.pid, reason="it did not end in time")
            self._front.process.kill()
            self._front.process.wait()
            self._exit_status = 1


def front_command(config_path: Path, descriptor: int) -> list[str]:
    """The command line of a front process with this socket to the launcher."""
    return [
        sys.executable,
        "-P",  # do not import modules from the current directory
        "-m",
        "hsmd.daemon.front.app",
        "--config",
        str(config_path),
        "--launcher-fd",
        str(descriptor),
    ]


def _let_workers_lock_memory() -> None:
    """The limit is inherited, and only root may raise it; workers say so in the log where it stays low."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _load(path: Path) -> Config:
    """The configuration, for users that exist and with a sandbox where one is wanted. Raises ConfigurationError."""
    config = configuration.load(path)
    faults = [
        f"users.{role}: there is no user {name!r}" for role, name in _named(config.users) if not _exists(name)
    ]
    if any(token.sandbox == "on" for token in config.tokens) and (reason := sandbox.missing()):
        faults.append(f"token.sandbox: {reason}")
    if faults:
        raise ConfigurationError(str(path), faults)
    return config


def _named(users: UsersConfig) -> list[tuple[str, str]]:
    return [(role, name) for role, name in (("front", users.front), ("workers", users.workers)) if name]


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _as_user(name: str) -> dict[str, Any]:
    """What makes subprocess change to a user and the group that user has; nothing if that is not wanted or not possible."""
    if not name or os.geteuid() != 0:
        return {}
    return {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": []}
