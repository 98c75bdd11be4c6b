"""Lines that go to the journal begin with their priority, and no others do; all processes write one JSON object a line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

PROGRAM = """
from hsmd import log_lines, observe
from hsmd.cli.base.output import complain
log_lines.write("worker", "error", "worker.failed", pid=7, reason="a\\x7fb\\nc")
observe.configure("front", "debug")
for level in ("debug", "info", "warning", "error", "critical"):
    getattr(observe.logger(), level)("test." + level)
complain("hsmd: it failed")
"""
LEVELS = ["error", "debug", "info", "warning", "error", "critical"]


def lines_of(output: IO[bytes], journal: str) -> list[str]:
    environment = {**os.environ, "JOURNAL_STREAM": journal}
    subprocess.run([sys.executable, "-c", PROGRAM], stderr=output, env=environment, check=True, timeout=60)
    output.seek(0)
    return output.read().decode().splitlines()


@pytest.mark.parametrize("goes", [True, False])
def test_lines_have_a_priority_only_in_the_journal(tmp_path: Path, goes: bool) -> None:
    with (tmp_path / "journal").open("w+b") as output:
        status = os.fstat(output.fileno())
        named = f"{status.st_dev}:{status.st_ino if goes else status.st_ino + 1}"
        lines = lines_of(output, named)
    if goes:
        assert [line[:3] for line in lines] == ["<3>", "<7>", "<6>", "<4>", "<3>", "<2>", "<3>"]
        lines = [line[3:] for line in lines]
    *events, complaint = lines
    assert complaint == "hsmd: it failed"
    assert [json.loads(line)["level"] for line in events] == LEVELS
    first = json.loads(events[0])
    assert (first["process"], first["event"], first["pid"], first["reason"]) == (
        "worker",
        "worker.failed",
        7,
        "a\x7fb\nc",
    )
    assert events[0].isprintable()
    assert list(first)[:4] == list(json.loads(events[1]))[:4] == ["time", "level", "process", "event"]
