"""`hsmd status` tells first whether handshakes work, and ends with an exit code that says the same."""

from __future__ import annotations

import json

import pytest

from hsmd.cli import status as command
from hsmd.protocol.messages import Finding
from tests.support.cli import Run
from tests.support.fake_control import FakeControl

AWAY = Finding("token-away", "failing", "main", "the token main cannot be used: no such token", "insert it")


def tell(daemon: FakeControl, severity: str) -> None:
    daemon.level = severity
    if severity != "well":
        daemon.findings = [Finding("token-away", severity, "main", AWAY.text, AWAY.next_step)]


@pytest.mark.parametrize(
    ("level", "first", "code"),
    [
        ("well", "Handshakes work.", 0),
        ("degraded", "Handshakes work, but look at this:", 5),
        ("partial", "SOME HANDSHAKES FAIL:", 4),
        ("failing", "HANDSHAKES FAIL:", 4),
    ],
)
def test_the_first_line_and_the_exit_code_tell_the_same(
    run: Run, daemon: FakeControl, level: str, first: str, code: int
) -> None:
    tell(daemon, level)
    ran = run("status")
    assert ran.out.splitlines()[0] == first
    assert ran.code == code
    if level != "well":
        finding, fix = ran.out.splitlines()[1:3]
        assert finding.split(None, 1) == [level, AWAY.text]
        assert fix.strip() == "next: insert it"
    ran = run("status", "--json")
    assert ran.code == code
    document = json.loads(ran.out)
    assert document["health"]["level"] == level == document["daemon"]["level"]
    assert document["health"].get("findings", []) == document["daemon"]["findings"]
    assert run("top").out.startswith(f"health   {first.rstrip('.:')}")


def test_a_client_that_may_not_read_the_status_learns_the_level(run: Run, daemon: FakeControl) -> None:
    daemon.role = "front-end"
    tell(daemon, "failing")
    ran = run("status")
    assert ran.out.startswith("HANDSHAKES FAIL")
    assert ran.code == 4


def test_the_status_of_an_earlier_release_is_judged_here(run: Run, daemon: FakeControl) -> None:
    daemon.level = ""
    assert run("status").code == 0
    daemon.audit_writable = False
    ran = run("status")
    assert ran.code == 4
    assert "the audit log cannot be written" in ran.out.splitlines()[1]
    assert "the audit log cannot be written" in run("top").out.splitlines()[0]


def test_each_worker_shows_what_it_is_for(run: Run, daemon: FakeControl) -> None:
    rows = [line.split() for line in run("status").out.splitlines() if line.startswith("main ")]
    assert [(row[4], row[5]) for row in rows] == [
        ("4711", "signing"),
        ("4712", "spare"),
        ("4713", "control"),
    ]
    assert "1 of 1 signing workers up, spare up, control up" in run("top").out


def test_a_token_that_is_starting_is_waited_for(
    run: Run, daemon: FakeControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    starting = Finding("token-starting", "failing", "main", "no worker is logged in yet", "wait")
    daemon.level, daemon.findings = "failing", [starting]
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            daemon.level, daemon.findings = "well", []

    monkeypatch.setattr(command.time, "sleep", pause)
    assert run("status").code == 0
    assert len(pauses) == 3

    daemon.level, daemon.findings = "failing", [starting]
    monkeypatch.setattr(command, "START_S", 0.0)
    assert run("status").code == 4

    daemon.findings = [AWAY, starting]
    monkeypatch.setattr(command, "START_S", 5.0)
    pauses.clear()
    assert run("status").code == 4
    assert pauses == []
