"""What a token worker writes to its log when it fails: JSON, the place, and no text of the exception."""

from __future__ import annotations

import json
import sys

import pytest

from hsmd.daemon.worker import main as worker

SECRET = "pin-4711"


def test_a_fault_is_logged_without_its_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise ValueError(f"wrong: {SECRET}")

    def exit_with(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(worker, "harden", fail)
    monkeypatch.setattr(worker.os, "_exit", exit_with)
    monkeypatch.setattr(sys, "argv", ["worker"])
    with pytest.raises(SystemExit) as ended:
        worker.main()
    assert ended.value.code == worker.EXIT_CRASHED
    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert (told["process"], told["level"], told["event"]) == ("worker", "critical", "worker.fault")
    assert told["reason"].startswith("ValueError\n")
    assert "test_worker_log.py" in told["reason"]
    assert SECRET not in line
