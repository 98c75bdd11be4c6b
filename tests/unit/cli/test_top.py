"""`hsmd top`: rates between two readings, output to a pipe and as JSON, and names with control sequences."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from hsmd.cli.base.rates import latency_views, use_rates
from hsmd.errors import Refused
from tests.support.cli import Run
from tests.support.daemon import ROOT
from tests.support.fake_control import FakeControl
from tests.support.terminal import run_in_terminal

RUN_WITH_FAKE = """
from hsmd import cli
from hsmd.cli.base import connection
from tests.support.fake_control import FakeControl
made = FakeControl()
connection.connect = lambda profile, witness=None: made
cli.main()
"""


@pytest.mark.parametrize("size", [(80, 24), (200, 50)], ids=str)
@pytest.mark.usefixtures("fake_control")
def test_in_a_terminal_all_is_on_the_screen_and_q_ends_it(home: Path, size: tuple[int, int]) -> None:
    columns, lines = size
    code, shown = run_in_terminal(
        [sys.executable, "-c", RUN_WITH_FAKE, "top"],
        [("q quit", "q")],
        environment={"HOME": str(home), "PATH": "/usr/bin:/bin", "TERM": "xterm", "PYTHONPATH": str(ROOT)},
        cwd=home,
        size=size,
    )
    assert code == 0
    first = shown.partition("\x1b[?1049h")[2].partition("q quit")
    screen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", first[0] + first[1]).splitlines()
    assert len(screen) <= lines and max(len(line.rstrip()) for line in screen) <= columns, shown
    text = "\n".join(screen)
    for row in ("health", "token", "latency", "CLIENT", "web1", "mail1\\x1b[2J"):
        assert row in text, shown


def test_in_a_pipe_one_table_with_recent_rates_is_printed(run: Run, daemon: FakeControl) -> None:
    ran = run("top")
    assert ran.code == 0
    row = next(line for line in ran.out.splitlines() if line.startswith("web1"))
    assert row.split() == ["web1", "www", "tls13-server", "3.0", "0.1", "130", "2"]
    assert len(daemon.asked) == 1


def test_control_sequences_in_names_are_escaped(run: Run, daemon: FakeControl) -> None:
    out = run("top").out
    assert out.isprintable() or set(out) <= {c for c in out if c.isprintable() or c == "\n"}
    assert "mail1\\x1b[2J" in out
    assert "mx\\u202e" in out


def test_json_output_is_one_object_per_reading(run: Run, daemon: FakeControl) -> None:
    ran = run("top", "--json", "--count", "3", "--every", "0.2")
    assert ran.code == 0
    readings = [json.loads(line) for line in ran.out.splitlines()]
    assert len(readings) == 3
    assert ran.out.isascii()
    assert readings[0]["status"]["tokens"][0]["state"] == "ready"
    # 30 more in each reading of at least 0.2 s; the first reading uses the daemon's own window of ten seconds.
    rates = [use["per_s"] for reading in readings for use in reading["uses"] if use["client"] == "web1"]
    assert rates[0] == 3.0
    assert 0 < rates[1] <= 150
    assert readings[2]["latencies"] == [
        {"purpose": "tls13-server", "key_type": "p-256", "p50_ms": 1.0, "p99_ms": 1.0}
    ]


def test_the_order_can_be_chosen(run: Run, daemon: FakeControl) -> None:
    def first(order: str) -> str:
        (line,) = run("top", "--json", "--count", "1", "--sort", order).out.splitlines()
        return str(json.loads(line)["uses"][0]["client"])

    assert first("rate") == first("failures") == "web1"
    assert first("name").startswith("mail1")
    assert run("top", "--sort", "colour").code == 2


def test_a_refusal_ends_with_exit_code_1(run: Run, daemon: FakeControl) -> None:
    daemon.fail_with = Refused()
    assert run("top").code == 1


def test_counts_of_a_restarted_daemon_begin_at_zero(daemon: FakeControl) -> None:
    before = daemon.on_metrics_read(None)
    daemon.uses = 0
    now = daemon.on_metrics_read(None)
    assert [use.per_s for use in use_rates(now, before, 1.0) if use.client == "web1"] == [0.0]
    assert latency_views(now, before)[0].p50_ms == 1.0


def test_status_shows_the_recent_uses(run: Run, daemon: FakeControl) -> None:
    ran = run("status")
    assert "web1" in ran.out
    assert json.loads(run("status", "--json").out)["uses"][0]["client"] == "web1"
