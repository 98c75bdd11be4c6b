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

_INHERITED = (
    "CREDENTIALS_DIRECTORY",
    "RUNTIME_DIRECTORY",
    "PATH",
    "LANG",
    "LD_LIBRARY_PATH",
    "JOURNAL_STREAM",
)


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
    with _open_pin(settings) as (settings, credential):
        process = start_python(
            module,
            arguments,
            environment={**inherited, **environment},
            descriptors=[*descriptors, *credential],
            user=settings.user,
            all_groups=True,  # files of a PKCS#11 module often belong to a group of their own, as SoftHSM's do
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


def environment_for(user: str) -> dict[str, str]:
    """This process's environment for another of its processes that runs as `user`; empty for this process's user.

    Libraries look for files in HOME: libpq gives up TLS, or the connection, if it may not look into root's.
    """
    return {**os.environ, "HOME": pwd.getpwnam(user).pw_dir} if user else dict(os.environ)


def start_python(
    module: str,
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    descriptors: Sequence[int],
    user: str = "",
    all_groups: bool = False,
    stdin: int = subprocess.DEVNULL,
    stdout: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start `python -m module` in a process group of its own, so that Ctrl-C reaches only this process.

    It runs as `user` with that user's group, and with the user's further groups if `all_groups` is set; or as this
    process's user if `user` is empty. Raises OSError.
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
        extra_groups=_groups(user, all_groups) if user else None,
    )


def _groups(user: str, all_groups: bool) -> list[int]:
    """The supplementary groups of a process that becomes `user`; with `all_groups` what a login would give it."""
    return os.getgrouplist(user, pwd.getpwnam(user).pw_gid) if all_groups else []


@contextmanager
def _open_pin(settings: WorkerSettings) -> Iterator[tuple[WorkerSettings, list[int]]]:
    """Open the file with the PIN for a worker that changes its user, if only this process's user can read it.

    It is not read here. If it cannot be opened, the worker reports that.
    """
    path = _private_pin_file(settings)
    if path is None:
        yield settings, []
        return
    try:  # O_NONBLOCK: a pipe would keep this waiting
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        yield settings, []
        return
    try:
        token = msgspec.structs.replace(settings.token, pin_fd=descriptor)
        yield msgspec.structs.replace(settings, token=token), [descriptor]
    finally:
        os.close(descriptor)


def _private_pin_file(settings: WorkerSettings) -> Path | None:
    """The file with the PIN, if the worker's user is another one than its owner: a credential of systemd, or root's file."""
    if not settings.user:
        return None
    if settings.token.pin_file:
        path = Path(settings.token.pin_file)
        with suppress(OSError):
            return path if path.stat().st_uid == os.geteuid() else None
        return None
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    return (
        Path(directory, settings.token.pin_credential)
        if directory and settings.token.pin_credential
        else None
    )
