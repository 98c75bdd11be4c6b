"""A disk that fails on command under the audit log of a running daemon (failing_disk.c, preloaded)."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from tests.support.fault_module.control import compile_library

SOURCE = Path(__file__).with_name("failing_disk.c")


class FailingDisk:
    """Makes the front process's writes to `audit.jsonl` fail; `environment` is for the daemon."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        library = compile_library(SOURCE, directory / "failing_disk.so")
        control = directory / "disk-control"
        control.write_bytes(bytes(8))
        with control.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), 8)
        self.environment = {
            "LD_PRELOAD": str(library), "HSMD_DISK_CONTROL": str(control), "HSMD_DISK_FILE": "/audit.jsonl",
        }  # fmt: skip

    def fail(self, *, write: int = 0, sync: int = 0) -> None:
        """Make writes or syncs fail with this errno; 0: succeed."""
        struct.pack_into("<II", self._page, 0, write, sync)

    def repair(self) -> None:
        """Make writes and syncs succeed again."""
        self.fail()
