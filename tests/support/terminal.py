"""Runs a program in a terminal of its own, as a person would, and types answers to its questions."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def run_in_terminal(
    command: Sequence[str],
    answers: Sequence[tuple[str, str]],
    *,
    environment: Mapping[str, str],
    cwd: Path,
    within_s: float = 30.0,
    size: tuple[int, int] = (0, 0),
) -> tuple[int, str]:
    """(exit status, everything on the terminal). Each answer is typed when its question has appeared after the previous one,
    or at once if its question is empty.

    `size`: columns and lines of the terminal.
    """
    keyboard, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (size[1], size[0]))
    process = subprocess.Popen(
        [sys.executable, "-c", _TAKE_TERMINAL, *command],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=dict(environment),
        cwd=cwd,
        start_new_session=True,
    )
    os.close(terminal)
    shown, at, waiting = "", 0, list(answers)
    give_up = time.monotonic() + within_s
    try:
        while True:
            assert time.monotonic() < give_up, f"the program waits: {shown}"
            if waiting and waiting[0][0] in shown[at:]:
                at = len(shown)
                os.write(keyboard, waiting.pop(0)[1].encode() + b"\n")
            if not select.select([keyboard], [], [], 0.1)[0]:
                continue
            try:
                data = os.read(keyboard, 65_536)
            except OSError:  # EIO: the program has closed its terminal
                data = b""
            if not data:
                break
            shown += data.decode(errors="replace")
        status = process.wait(within_s)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(keyboard)
    assert not waiting, f"never asked {waiting[0][0]!r}: {shown}"
    return status, shown
