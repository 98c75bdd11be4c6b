"""scripts/tour: each tour shows its steps and leaves nothing behind, whether it succeeds, fails or is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.polling import wait_until

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"

STEPS = {
    "events": [
        "daemon",
        "grant",
        "grant-used",
        "grant-exhausted",
        "short-certificate",
        "certificate-third",
        "certificate-tenth",
        "certificate-end",
        "follower",
        "away",
        "back",
        "exec-fails-twice",
        "exec-killed",
        "exec-again",
    ],
    "ca": [
        "daemon",
        "root",
        "issuing",
        "ceiling",
        "nodes",
        "served",
        "renewed",
        "revoked",
        "others",
        "new-key",
        "openssl",
        "gnutls",
        "audited",
    ],
    "vault": [
        "daemon",
        "owner",
        "management-key",
        "registered",
        "confirmed",
        "deposit-www",
        "deposit-mail",
        "deposit-shop",
        "acquired",
        "handshake",
        "disk-lost",
        "enrolled-anew",
        "old-key-revoked",
        "no-management-key",
        "recovered",
        "checkers",
        "check-match",
        "check-mismatch",
        "check-no-answer",
        "uses",
        "uses-told",
        "uses-checked",
        "short-term",
        "expiry-told",
        "expired",
    ],
}
"""The steps of each tour, in order."""
LONGEST_S = 440
"""A tour ends itself before."""


def on_postgresql(steps: list[str]) -> list[str]:
    """The steps of the vault's tour across two daemons."""
    killed = {"deposit-shop": ["first-killed"], "uses-checked": ["second-killed", "limit-holds"]}
    return ["daemons", *(one for step in steps[1:] for one in [step, *killed.get(step, [])])]


VARIANTS = [
    *((name, [], steps) for name, steps in STEPS.items()),
    ("vault", ["--postgresql"], on_postgresql(STEPS["vault"])),
]
"""Tour, options and the steps that are then shown."""


@pytest.fixture
def temporary() -> Iterator[Path]:
    """The directory for temporary files of a tour, which finds every file and every process that it leaves behind."""
    with tempfile.TemporaryDirectory(prefix="hsmd-tours-") as path:
        Path(path).chmod(0o711)  # PostgreSQL, which does not run as root, has a directory in it
        yield Path(path)


def environment(temporary: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(SCRIPTS)}


def left_behind(temporary: Path) -> list[str]:
    """Files of a tour, and processes that were started by it: those have its directory in their environment."""
    found = [str(path) for path in temporary.iterdir()]
    mark = f"TMPDIR={temporary}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def documents(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


@pytest.mark.timeout(LONGEST_S + 20)
@pytest.mark.parametrize(
    ("name", "options", "steps"), VARIANTS, ids=["".join([name, *options]) for name, options, _ in VARIANTS]
)
def test_a_tour_shows_its_steps_and_leaves_nothing_behind(
    name: str, options: list[str], steps: list[str], temporary: Path
) -> None:
    command = [sys.executable, SCRIPTS / f"tour_{name}.py", "--json", *options]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=LONGEST_S, check=False, env=environment(temporary)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shown = documents(done.stdout)
    assert [one["step"] for one in shown] == steps
    assert all(one["ok"] is True and one["shows"] and one["took_s"] >= 0 for one in shown)
    assert left_behind(temporary) == []


def test_every_tour_is_listed_and_tested() -> None:
    listed = subprocess.run([SCRIPTS / "tour"], capture_output=True, text=True, timeout=20, check=True).stdout
    names = [line.split()[0] for line in listed.splitlines()]
    assert names == list(STEPS)
    assert {path.stem.removeprefix("tour_") for path in SCRIPTS.glob("tour_*.py")} - {"steps"} == set(names)


TOUR = """
import subprocess, sys, tempfile, time
from pathlib import Path
from tour_steps import Tour, expect, main

def run(tour: Tour) -> None:
    tour.resources.enter_context(tempfile.TemporaryDirectory())
    with tour.step("begin", "a daemon runs") as seen:
        seen["directory"] = str(tour.daemon("www").directory)
        child = tour.start("events", "--follow", "--profile", seen["directory"] + "/operator.toml")
        seen["child"] = child.pid
    with tour.step("middle", "one equals two") as seen:
        {body}

main("test", run)
"""


def start(temporary: Path, body: str, *options: str) -> subprocess.Popen[str]:
    program = TOUR.replace("{body}", body)
    return subprocess.Popen(
        [sys.executable, "-c", program, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(temporary),
    )


@pytest.mark.timeout(120)
def test_a_step_that_fails_ends_the_tour_which_cleans_up(temporary: Path) -> None:
    tour = start(temporary, "expect(1 == 2, 'one is not two')", "--json")
    output, _ = tour.communicate(timeout=60)
    begin, middle = documents(output)
    assert begin["ok"] is True
    assert (middle["step"], middle["ok"], middle["error"]) == ("middle", False, "one is not two")
    assert tour.returncode == 1
    assert left_behind(temporary) == []


@pytest.mark.timeout(120)
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_tour_that_is_interrupted_cleans_up(temporary: Path, sign: signal.Signals) -> None:
    tour = start(temporary, "Path(tempfile.gettempdir(), 'waits').touch(); time.sleep(60)")
    wait_until((temporary / "waits").exists, "the second step", 60)
    assert len(left_behind(temporary)) > 3  # positive control: files and processes are found
    (temporary / "waits").unlink()
    tour.send_signal(sign)
    output, errors = tour.communicate(timeout=60)
    assert tour.returncode == 130, errors
    assert "begin: a daemon runs" in output
    assert left_behind(temporary) == [], errors


@pytest.mark.timeout(120)
def test_an_interrupt_does_not_stop_the_cleaning_up(temporary: Path) -> None:
    ends = "lambda: (Path(tempfile.gettempdir(), 'ends').touch(), time.sleep(1))"
    tour = start(temporary, f"tour.resources.callback({ends})")
    wait_until((temporary / "ends").exists, "the end of the tour", 60)
    (temporary / "ends").unlink()
    tour.send_signal(signal.SIGINT)
    _, errors = tour.communicate(timeout=60)
    assert tour.returncode == 0, errors
    assert left_behind(temporary) == []
