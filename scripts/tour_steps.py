"""What tours have in common: steps that are shown as they happen, a deadline, and an end that leaves nothing behind.

A tour is a function that takes a `Tour`. It enters what it needs into `tour.resources`, which is released in reverse order when
the tour ends: in good order, by a failure, by a signal, or because it takes too long.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from hsmd.cli.base.output import escape
from hsmd.cli.dev.child_processes import Terminated, terminated_by_signals
from hsmd.testing import Daemon

HSMD = Path(sys.executable).with_name("hsmd")
LONGEST_S = 180
"""A tour that has not ended by then has failed."""
STEP_S = 30.0
"""A condition that a step waits for comes true within this time, or the step has failed."""
STOP_S = 5.0


class StepFailed(Exception):
    """A step did not come out as described; the text says what was seen instead."""


class Tour:
    """The steps of one tour. `resources` holds what is to be released in the end."""

    def __init__(self, resources: ExitStack, given: argparse.Namespace) -> None:
        self.resources = resources
        self._given = given
        self._as_json = bool(given.json)
        self._began = time.monotonic()

    def given(self, flag: str) -> bool:
        """Whether a flag of the tour's own was given."""
        return bool(vars(self._given)[flag.removeprefix("--").replace("-", "_")])

    # --- steps ---

    @contextmanager
    def step(self, name: str, shows: str) -> Iterator[dict[str, Any]]:
        """One step: `shows` is the line that it is shown with. What the block puts into the dictionary is shown with it.

        A step whose block raises has failed, and so has the tour.
        """
        seen: dict[str, Any] = {}
        began = time.monotonic()
        try:
            yield seen
        except Exception as error:
            text = str(error) or type(error).__name__
            self._show({"step": name, "ok": False, "shows": shows, "error": text, **seen}, began)
            raise StepFailed(text) from error
        self._show({"step": name, "ok": True, "shows": shows, **seen}, began)

    def _show(self, document: dict[str, Any], began: float) -> None:
        now = time.monotonic()
        document |= {"at_s": round(now - self._began, 2), "took_s": round(now - began, 2)}
        print(json.dumps(document) if self._as_json else _line(document), flush=True)

    # --- parts ---

    def daemon(self, *keys: str, **options: Any) -> Daemon:
        """A temporary daemon with these keys (NAME:TYPE:PURPOSE), removed when the tour ends."""
        return self.resources.enter_context(Daemon(keys, agent=False, **options))

    def start(self, *arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
        """Start an `hsmd` command that goes on until the tour ends it, or ends itself."""
        child = subprocess.Popen(
            [HSMD, *arguments], text=True, stdin=subprocess.DEVNULL, start_new_session=True, **options
        )
        self.resources.callback(stop, child)
        return child


def wait_for(done: Callable[[], object], what: str, seconds: float = STEP_S) -> None:
    """Wait until `done()` is true. Raises StepFailed after `seconds`."""
    ends = time.monotonic() + seconds
    while not done():
        if time.monotonic() > ends:
            raise StepFailed(f"not seen within {seconds:g} s: {what}")
        time.sleep(0.05)


def expect(holds: bool, otherwise: str) -> None:
    """Raises StepFailed unless `holds`."""
    if not holds:
        raise StepFailed(otherwise)


def stop(child: subprocess.Popen[str], sign: signal.Signals = signal.SIGTERM) -> None:
    """End a command: with this signal, after `STOP_S` with SIGKILL. No effect if it has ended."""
    if child.poll() is None:
        child.send_signal(sign)
        try:
            child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    for stream in (child.stdout, child.stderr):
        if stream is not None:
            stream.close()


def main(
    name: str,
    run: Callable[[Tour], None],
    arguments: Sequence[str] | None = None,
    *,
    flags: Sequence[str] = (),
    longest_s: int = LONGEST_S,
) -> None:
    """Entry point of a tour's program: exits with 0 if every step came out as described, 1 if not, 130 if interrupted.

    `flags` are options of the tour's own, such as `--postgresql`. After `longest_s` it has failed.
    """
    parser = argparse.ArgumentParser(prog=f"scripts/tour {name}")
    for flag in ("--json", *flags):
        parser.add_argument(flag, action="store_true")
    given = parser.parse_args(arguments)
    try:
        with terminated_by_signals(), ExitStack() as resources:
            signal.signal(signal.SIGALRM, _too_long)
            signal.alarm(longest_s)
            try:
                run(Tour(resources, given))
            finally:
                _ignore_signals()
    except Terminated:
        sys.exit(130)
    except Exception as error:  # a failed step is shown already
        if not isinstance(error, StepFailed):
            print(f"scripts/tour {name}: {error}", file=sys.stderr)
        sys.exit(1)


def _ignore_signals() -> None:
    """Let nothing interrupt the release of what the tour has started."""
    signal.alarm(0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _too_long(number: int, frame: object) -> None:
    raise StepFailed("the tour takes too long")


def _line(document: dict[str, Any]) -> str:
    told = {"step", "ok", "shows", "at_s", "took_s"}
    seen = ", ".join(f"{name} {_text(value)}" for name, value in document.items() if name not in told)
    mark = "ok    " if document["ok"] else "FAILED"
    shown = f"{document['at_s']:6.1f} s  {mark}  {document['step']}: {document['shows']}"
    return escape(f"{shown}  ({seen})" if seen else shown)


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
