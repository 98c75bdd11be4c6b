"""`hsmd status` tells first whether handshakes work, and ends with an exit code that says the same."""

from __future__ import annotations

import json

import pytest

from hsmd.cli import status as command
from hsmd.protocol import messages
from hsmd.protocol.messages import Finding
from tests.support.cli import Run
from tests.support.fake_control import FakeControl

AWAY = Finding("token-away", "failing", "main", "the token main cannot be used: no such token", "insert it")


def tell(daemon: FakeControl, severity: str) -> None:
    daemon.level = severity
    if severity != "well":
        daemon.findings = [Finding("token-away", severity, "main", AWAY.text, AWAY.next_step)]


@pytest.mark.parametrize(
    ("level", "first", "last", "code"),
    [
        ("well", "Handshakes work.", "mail1", 0),
        ("degraded", "Handshakes work, but look at this:", "Handshakes work, but look at the first", 5),
        ("partial", "SOME HANDSHAKES FAIL:", "SOME HANDSHAKES FAIL: see", 4),
        ("failing", "HANDSHAKES FAIL:", "HANDSHAKES FAIL: see", 4),
    ],
)
def test_the_first_line_the_last_and_the_exit_code_tell_the_same(
    run: Run, daemon: FakeControl, level: str, first: str, last: str, code: int
) -> None:
    tell(daemon, level)
    ran = run("status")
    assert ran.out.splitlines()[0] == first
    assert ran.code == code
    if level != "well":
        finding, fix = ran.out.splitlines()[1:3]
        assert finding.split(None, 1) == [level, AWAY.text]
        assert fix.strip() == "next: insert it"
    assert ran.out.splitlines()[-1].startswith(last)
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


@pytest.mark.parametrize("role", ["owner", "checker"])
@pytest.mark.parametrize(
    ("level", "first", "code"),
    [
        ("well", "The daemon works.", 0),
        ("degraded", "The daemon works, and its operators should look at it.", 5),
        ("partial", "THE DAEMON WORKS IN PART: some handshakes of its front ends fail.", 4),
        ("failing", "THE DAEMON DOES NOT DO ITS WORK: handshakes of its front ends fail.", 4),
    ],
)
def test_a_client_that_makes_no_handshakes_learns_whether_the_daemon_works(
    run: Run, daemon: FakeControl, role: str, level: str, first: str, code: int
) -> None:
    daemon.role = role
    tell(daemon, level)
    ran = run("status")
    assert (ran.out.splitlines()[0], ran.code) == (first, code)
    assert "Handshakes work" not in ran.out


def test_the_status_of_an_earlier_release_is_judged_here(run: Run, daemon: FakeControl) -> None:
    daemon.level = ""
    assert run("status").code == 0
    daemon.audit_writable = False
    ran = run("status")
    assert ran.code == 4
    assert "the audit log cannot be written" in ran.out.splitlines()[1]
    assert "the audit log cannot be written" in run("top").out.splitlines()[0]


def _workers(text: str) -> list[tuple[str, str]]:
    rows = [line.split() for line in text.splitlines() if line.startswith("main ")]
    return [(row[4], row[5]) for row in rows]


def test_workers_have_a_line_each_if_one_is_not_up(run: Run, daemon: FakeControl) -> None:
    each = [("4711", "signing"), ("4712", "spare"), ("4713", "control")]
    assert _workers(run("status", "--workers").out) == each
    assert _workers(run("status").out) == []
    for shown in (run("status").out, run("top").out):
        assert "1 of 1 signing workers up, spare up, control up" in shown
    daemon.worker_state = "stalled"
    assert _workers(run("status").out) == each
    assert "0 of 1 signing workers up, spare up, control up" in run("status").out


def test_the_most_frequent_uses_are_shown_and_the_others_counted(run: Run, daemon: FakeControl) -> None:
    daemon.more_uses = [
        messages.UseCount("web1", f"key-{number}", "tls13-server", "performed", 1, number, 10.0)
        for number in range(1_234)
    ]
    lines = run("status").out.splitlines()
    shown = [line.split()[1] for line in lines if line.startswith("web1 ")]
    assert shown == [f"key-{number}" for number in range(1_233, 1_228, -1)]
    assert lines[-1].startswith("and 1,231 more: hsmd top")
    assert len(json.loads(run("status", "--json").out)["uses"]) == 1_236


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
