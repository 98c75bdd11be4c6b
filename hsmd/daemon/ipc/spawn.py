"""Starting token workers: the settings they get, and how their process is made. Knows no PKCS#11 itself.

A worker gets its socket and progress page as inherited descriptors, its settings as one JSON line on standard input, and an
environment made for the module. The PIN is not among them: the worker reads it itself from where the settings say.
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
from hsmd.daemon.ipc.progress import ProgressPage
from hsmd.daemon.ipc.worker_settings import WorkerSettings

EXIT_LOGIN_REFUSED = 3
"""The token did not take the PIN, or is about to lock it. Starting again would use up tries: do not."""
EXIT_TOKEN_UNAVAILABLE = 4
"""The token could not be reached; try again later."""
EXIT_RECYCLE = 5
"""The session or the module is in doubt; a fresh worker is wanted at once."""
EXIT_PROTOCOL = 6
"""The front sent something that is not the protocol."""

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
        """Close our copies of socket and progress page, once somebody else has theirs."""
        self.socket.close()
        os.close(self.progress_fd)


def spawn_worker(settings: WorkerSettings, *, environment: Mapping[str, str]) -> SpawnedWorker:
    """Start one worker. `environment` is what the module needs, for example SOFTHSM2_CONF. Raises OSError."""
    ours, theirs = socket.socketpair()
    progress_fd = ProgressPage.create()
    descriptors = [theirs.fileno(), progress_fd]
    arguments = ["--socket-fd", str(theirs.fileno()), "--progress-fd", str(progress_fd)]
    try:
        process = start_module(
            "hsmd.daemon.worker.main",
            arguments,
            settings,
            environment=environment,
            descriptors=descriptors,
        )
    except OSError:
        ours.close()
        os.close(progress_fd)
        raise
    finally:
        theirs.close()
    return SpawnedWorker(process, ours, progress_fd)


def start_module(
    module: str,
    arguments: Sequence[str],
    settings: WorkerSettings,
    *more: msgspec.Struct,
    environment: Mapping[str, str],
    descriptors: Sequence[int],
    stdout: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start `python -m module` in a process group of its own, with settings and `more` as JSON lines on its standard input.

    Raises OSError.
    """
    with _open_credential(settings) as (settings, credential):
        process = _start(
            [module, *arguments], environment, [*descriptors, *credential], settings.user, stdout
        )
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it died already: whoever watches the process sees that
        process.stdin.write(b"".join(msgspec.json.encode(document) + b"\n" for document in (settings, *more)))
        process.stdin.close()
    process.stdin = None
    return process


@contextmanager
def _open_credential(settings: WorkerSettings) -> Iterator[tuple[WorkerSettings, list[int]]]:
    """The PIN's credential, opened for a worker that changes its user: systemd lets only the unit's user read it.

    Nobody reads it here. One that is not there is for the worker to complain of.
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


def _start(
    command: Sequence[str],
    environment: Mapping[str, str],
    descriptors: Sequence[int],
    user: str,
    stdout: int | None,
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        # -P: the current directory is nobody's module path in a process that reads the PIN.
        [sys.executable, "-P", "-m", *command],
        stdin=subprocess.PIPE,
        stdout=stdout,
        env=_environment(environment),
        pass_fds=descriptors,
        process_group=0,
        user=user or None,
        group=pwd.getpwnam(user).pw_gid if user else None,
        extra_groups=[] if user else None,
    )


def _environment(module_environment: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**inherited, **module_environment, "PYTHONPATH": str(Path(hsmd.__file__).parents[1])}
