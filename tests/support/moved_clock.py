"""A wall clock that a test moves under the processes of a daemon (moved_clock.c, preloaded)."""

from __future__ import annotations

import mmap
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.support.fault_module.control import compile_library

SOURCE = Path(__file__).with_name("moved_clock.c")


class MovedClock:
    """`environment` is for the daemon; its clock is as far ahead of the true one as `move` said last."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        library = compile_library(SOURCE, directory / "moved_clock.so")
        control = directory / "clock"
        control.write_bytes(bytes(8))
        with control.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), 8)
        self.environment = {"LD_PRELOAD": str(library), "HSMD_TEST_CLOCK": str(control)}

    def move(self, ahead: timedelta) -> None:
        """Set it so far ahead of the true time."""
        self.ahead = ahead
        struct.pack_into("<q", self._page, 0, int(ahead.total_seconds()))

    def now(self) -> datetime:
        """The time of the daemon."""
        return datetime.now(UTC) + timedelta(seconds=struct.unpack_from("<q", self._page)[0])
