"""A program that is run for each event, again and again until it exits with 0; at most one run at a time."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.output import note
from hsmd.protocol.messages import Event
from hsmd.system.process import die_with_parent

DEFAULT_TIMEOUT_S = 300.0
"""After this time a run is ended."""
STOP_S = 5.0
"""Time that a program has to end by itself after SIGTERM."""
_LOOK_S = 0.02
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
"""The pause after a run that failed doubles from the first to the longest."""


class Program:
    """PROGRAM of --exec: a program and its arguments, split as a shell does, without a shell."""

    def __init__(self, text: str, timeout_s: float, *, sleep: Callable[[float], None] = time.sleep) -> None:
        """Raises CommandError if there is no such program."""
        self.command = _split(text)
        """The path of the program, and its arguments."""
        self._timeout_s = timeout_s
        self._sleep = sleep

    @property
    def name(self) -> str:
        """Name of the program's file."""
        return Path(self.command[0]).name

    def run(self, event: Event) -> None:
        """Run the program with this event on its standard input until it exits with 0."""
        pause_s = FIRST_PAUSE_S
        while fault := self._run_once(msgspec.json.encode(event) + b"\n"):
            note(f"hsmd: event {event.id} ({event.kind}): {self.name} {fault}; next run in {pause_s:g} s")
            self._sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _run_once(self, document: bytes) -> str:
        """What went wrong; empty if the program exited with 0."""
        try:
            child = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                start_new_session=True,  # so that all that it started can be ended
                preexec_fn=die_with_parent,  # so that after a crash of this process no two runs overlap
            )
        except OSError as error:
            return f"cannot be started: {error.strerror}"
        try:
            child.communicate(document, timeout=self._timeout_s)
        except subprocess.TimeoutExpired:
            return f"did not end within {self._timeout_s:g} s"
        finally:
            _end(child)
        if child.returncode < 0:
            return f"was ended by {_name(-child.returncode)}"
        return f"exited with {child.returncode}" if child.returncode else ""


def _split(text: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise CommandError(f"--exec: {error}", "quote its arguments as for a shell", Exit.USAGE) from None
    found = shutil.which(words[0]) if words else None
    if found is None:
        raise CommandError(
            f"--exec: {words[0] if words else text!r} is not a program that can be run",
            "give its path, and make it executable",
            Exit.USAGE,
        )
    return [os.path.abspath(found), *words[1:]]


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a program that still runs, and what it has started in its session: SIGTERM, and SIGKILL after `STOP_S`.

    No effect if it has ended by itself: what it has left behind is meant to run.
    """
    if child.poll() is not None:
        return
    _signal(child, signal.SIGTERM)
    patience = time.monotonic() + STOP_S
    while _signal(child, 0) and time.monotonic() < patience:
        time.sleep(_LOOK_S)
        child.poll()
    _signal(child, signal.SIGKILL)
    child.wait()


def _signal(child: subprocess.Popen[bytes], number: int) -> bool:
    """Send a signal to the processes in the session of a program, 0 for none; return whether there are any."""
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user by now
        pass
    return True


def _name(number: int) -> str:
    """The name of a signal; most of those for real-time use have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
