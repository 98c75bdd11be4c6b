"""The only way in which tests start a daemon: `hsmd serve`, until it reports that it accepts connections."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.polling import wait_until
from tests.support.processes import Process, children, command_line

READY_S = 30.0
_FRONT, _WORKER = "hsmd.daemon.front.app", "hsmd.daemon.worker.main"


class DaemonProcess(Process):
    """A running launcher with its children; `notice` is its readiness report."""

    def __init__(
        self,
        config: Path,
        log: Path,
        *,
        prefix: Sequence[str | Path] = (),
        python: str = sys.executable,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Start it; return when it accepts connections. Raises AssertionError with the end of its log if it exits."""
        reader, writer = os.pipe()
        serve = [*prefix, python, "-m", "hsmd.cli", "serve", "--config", config, "--ready-fd", str(writer)]
        try:
            super().__init__(serve, log, variables=variables, pass_fds=[writer])
        finally:
            os.close(writer)
        os.set_blocking(reader, False)
        with open(reader, "rb") as pipe:
            received = bytearray()

            def announced() -> bool:
                self.check("hsmd serve")
                received.extend(pipe.read() or b"")
                return received.endswith(b"\n")

            wait_until(announced, "the daemon is ready", READY_S)
        self.notice: dict[str, Any] = json.loads(received)

    def children(self) -> list[int]:
        """Front and workers."""
        return children(self.pid)

    def fronts(self) -> list[int]:
        """The front process; briefly two of them while one replaces another."""
        return [pid for pid in self.children() if _FRONT in command_line(pid)]

    def workers(self) -> list[int]:
        """All workers, including the control worker."""
        return [pid for pid in self.children() if _WORKER in command_line(pid)]


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
