"""Starting the other processes: front, token workers and one-shot import workers. Loads no PKCS#11 module itself.

A worker gets its socket and progress page as inherited descriptors, its settings as one JSON line on standard input, and an
environment made for the module. The PIN is not among them: the worker reads it from the source that the settings name.
"""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

import hsmd
from hsmd.daemon.ipc import run_time_directory
from hsmd.daemon.ipc.progress import ProgressPage
from hsmd.daemon.ipc.worker_settings import WorkerSettings

EXIT_LOGIN_REFUSED = 3
"""The token refused the PIN, or has few tries left. Do not start another worker: it would use up tries."""
EXIT_TOKEN_UNAVAILABLE = 4
"""The token could not be reached; try again later."""
EXIT_RECYCLE = 5
"""The session or the module may be faulty; start a fresh worker at once."""
EXIT_PROTOCOL = 6
"""The front broke the protocol."""

_INHERITED = ("CREDENTIALS_DIRECTORY", "RUNTIME_DIRECTORY", "PATH", "LANG", "LD_LIBRARY_PATH")


@dataclass(slots=True)
class SpawnedWorker:
    """A worker that was started: its process, our end of its socket, and its progress page."""

    process: subprocess.Popen[bytes]
    socket: socket.socket
    progress_fd: int

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return self.process.pid

    def release(self) -> None:
        """Close our copies of socket and progress page, once the front has its own."""
        self.socket.close()
        os.close(self.progress_fd)


def spawn_worker(settings: WorkerSettings, *, environment: Mapping[str, str]) -> SpawnedWorker:
    """Start one worker. `environment` is what the module needs, for example SOFTHSM2_CONF. Raises OSError."""
    ours, theirs = socket.socketpair()
    progress_fd = ProgressPage.create()
    try:
        process = start_worker_module(
            "hsmd.daemon.worker.main",
            ["--socket-fd", str(theirs.fileno()), "--progress-fd", str(progress_fd)],
            settings,
            environment=environment,
            descriptors=[theirs.fileno(), progress_fd],
        )
    except OSError:
        ours.close()
        os.close(progress_fd)
        raise
    finally:
        theirs.close()
    return SpawnedWorker(process, ours, progress_fd)


def start_worker_module(
    module: str,
    arguments: Sequence[str],
    settings: WorkerSettings,
    *more: msgspec.Struct,
    environment: Mapping[str, str],
    descriptors: Sequence[int],
    stdout: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start `python -m module` with `settings` and `more` as JSON lines on standard input. Raises OSError.

    Of this process's environment it inherits only what a module may need besides `environment`.
    """
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    if settings.user and "RUNTIME_DIRECTORY" not in inherited:
        inherited["RUNTIME_DIRECTORY"] = run_time_directory.for_user(settings.user)
    with _open_credential(settings) as (settings, credential):
        process = start_python(
            module,
            arguments,
            environment={**inherited, **environment},
            descriptors=[*descriptors, *credential],
            user=settings.user,
            stdin=subprocess.PIPE,
            stdout=stdout,
        )
    assert process.stdin is not None
    with suppress(
        BrokenPipeError
    ):  # it has ended already: the caller sees that when it waits for the process
        process.stdin.write(b"".join(msgspec.json.encode(document) + b"\n" for document in (settings, *more)))
        process.stdin.close()
    process.stdin = None
    return process


def start_python(
    module: str,
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    descriptors: Sequence[int],
    user: str = "",
    stdin: int = subprocess.DEVNULL,
    stdout: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start `python -m module` in a process group of its own, so that Ctrl-C reaches only this process.

    It runs as `user` with that user's group, or as this process's user if empty. Raises OSError.
    """
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, *arguments],  # -P: import nothing from the current directory
        stdin=stdin,
        stdout=stdout,
        env={**environment, "PYTHONPATH": str(Path(hsmd.__file__).parents[1])},
        pass_fds=descriptors,
        process_group=0,
        user=user or None,
        group=pwd.getpwnam(user).pw_gid if user else None,
        extra_groups=[] if user else None,
    )


@contextmanager
def _open_credential(settings: WorkerSettings) -> Iterator[tuple[WorkerSettings, list[int]]]:
    """Open the PIN's credential for a worker that changes its user: systemd lets only the unit's user read it.

    It is not read here. If it is missing, the worker reports that.
    """
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if not (settings.user and settings.token.pin_credential and directory):
        yield settings, []
        return
    try:
        descriptor = os.open(Path(directory, settings.token.pin_credential), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield settings, []
        return
    try:
        token = msgspec.structs.replace(settings.token, pin_fd=descriptor)
        yield msgspec.structs.replace(settings, token=token), [descriptor]
    finally:
        os.close(descriptor)
