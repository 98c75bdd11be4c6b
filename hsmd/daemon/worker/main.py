"""A token worker: `python -m hsmd.daemon.worker.main --socket-fd N --progress-fd M`, settings on standard input.

One process, one thread, one PKCS#11 session. It never forks and never finalises the module; it exits by os._exit. The front
has checked each request; the worker checks ceiling, purpose and bytes again.

Steps: 1. harden the process; 2. open the token; 3. install the sandbox; 4. send the ready notice; 5. answer requests until the
front closes the socket or breaks the protocol, or the session or module may be faulty.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import traceback
from contextlib import suppress
from typing import NoReturn

import msgspec

from hsmd import log_lines
from hsmd.daemon.ipc import sandbox, worker_messages
from hsmd.daemon.ipc.progress import ProgressPage
from hsmd.daemon.ipc.spawn import (
    EXIT_LOGIN_REFUSED,
    EXIT_PROTOCOL,
    EXIT_RECYCLE,
    EXIT_TOKEN_UNAVAILABLE,
)
from hsmd.daemon.ipc.worker_settings import WorkerSettings
from hsmd.daemon.worker.control import ControlOperations
from hsmd.daemon.worker.key_index import KeyIndex
from hsmd.daemon.worker.loop import Recycle, WorkerLoop
from hsmd.daemon.worker.memory_lock import lock_memory
from hsmd.errors import HsmdError, ProtocolError
from hsmd.pkcs11.session import LoginRefused, OpenToken, open_token
from hsmd.protocol import frames
from hsmd.protocol.frames import Kind
from hsmd.system.process import harden, run_as_batch

_MAX_SETTINGS_BYTES = 65_536
EXIT_CRASHED = 70
MAX_PLACE = 4_000
"""Characters of a traceback that are logged, the last ones."""


def main() -> NoReturn:
    """Run one worker; never returns."""
    status = EXIT_CRASHED
    try:
        harden()
        run_as_batch()
        arguments = _arguments()
        settings = read_settings()
        status = _run(
            settings, socket.socket(fileno=arguments.socket_fd), ProgressPage(arguments.progress_fd)
        )
    except BaseException as error:
        place = "".join(traceback.format_tb(error.__traceback__))[-MAX_PLACE:]
        _log("critical", "worker.fault", f"{type(error).__name__}\n{place}")  # its text may hold secrets
    finally:
        sys.stderr.flush()
        os._exit(status)


def read_settings() -> WorkerSettings:
    """The settings: one JSON line on standard input."""
    return msgspec.json.decode(sys.stdin.buffer.readline(_MAX_SETTINGS_BYTES), type=WorkerSettings)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket-fd", type=int, required=True)
    parser.add_argument("--progress-fd", type=int, required=True)
    return parser.parse_args()


def _run(settings: WorkerSettings, front: socket.socket, progress: ProgressPage) -> int:
    """Serve one front; returns the exit status."""
    try:
        if reason := lock_memory(settings):
            _log("warning", "worker.memory_not_locked", f"memory may be swapped: {reason}")
        install_sandbox = sandbox.prepare(settings)
        token = open_token(settings.token, lambda: _beat(progress))
        install_sandbox()
        loop = _make_loop(settings, token, front, progress)
    except LoginRefused as error:
        return _fail(front, error, EXIT_LOGIN_REFUSED)
    except HsmdError as error:
        return _fail(front, error, EXIT_TOKEN_UNAVAILABLE)
    except ConnectionError:
        return _front_is_gone()
    try:
        loop.run()
    except Recycle as reason:
        _log("warning", "worker.recycles_itself", str(reason))
        return EXIT_RECYCLE
    except ProtocolError as error:
        _log("error", "worker.front_broke_protocol", error.text)
        return EXIT_PROTOCOL
    except OSError:
        return _front_is_gone()
    return 0


def _front_is_gone() -> int:
    _log("info", "worker.front_gone", "its socket was closed")
    return 0


def _make_loop(
    settings: WorkerSettings, token: OpenToken, front: socket.socket, progress: ProgressPage
) -> WorkerLoop:
    index = KeyIndex(token.session, verify=settings.verify)
    if not settings.control:
        _scan(index, progress)
    control = ControlOperations(token) if settings.control else None
    if control is not None and control.cleaned:
        _log("warning", "worker.destroyed_unfinished", f"{control.cleaned} keys of a worker that was killed")
    ready = worker_messages.Ready(
        token.label,
        token.serial,
        token.model,
        token.abilities,
        len(index.keys),
        control.wrapping if control is not None else [],
        token.write_protected,
    )
    front.sendall(frames.encode(Kind.EVENT, 0, worker_messages.encode(ready)))
    return WorkerLoop(front, index, progress, control)


def _beat(progress: ProgressPage) -> None:
    """Show the front that this worker goes on."""
    with progress.slice_of_search():
        pass


def _scan(index: KeyIndex, progress: ProgressPage) -> None:
    """Find all keys; the front sees in the progress page that it goes on."""
    search = index.scanning()
    with suppress(StopIteration):
        while True:
            with progress.slice_of_search():
                next(search)


def _fail(front: socket.socket, error: HsmdError, status: int) -> int:
    """Tell the front, which logs it; if it is gone, say so here. The launcher gets the exit status."""
    text = error.detail or error.text
    event = worker_messages.Failed(text, login_refused=status == EXIT_LOGIN_REFUSED)
    try:
        front.sendall(frames.encode(Kind.EVENT, 0, worker_messages.encode(event)))
    except OSError:
        _log("error", "worker.failed", text)
    return status


def _log(level: str, event: str, reason: str) -> None:
    log_lines.write("worker", level, event, pid=os.getpid(), reason=reason)


if __name__ == "__main__":
    main()
