"""`hsmd audit`: table rows, and the search for the first bad record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hsmd.errors import NotFound
from hsmd.protocol import messages
from tests.support.cli import Run
from tests.support.fake_control import NOW, FakeControl


@pytest.fixture
def log(daemon: FakeControl) -> FakeControl:
    """Ten uses of two keys by two clients and an event: 21 records."""
    daemon.event("daemon.started", "")
    for round_ in range(5):
        daemon.use("web1", "www", "performed" if round_ else "failed")
        daemon.use("web2", "shop", None if round_ == 4 else "performed")
    return daemon


def _rows(run: Run, *arguments: str) -> list[dict[str, Any]]:
    ran = run("audit", "show", *arguments, "--json")
    assert ran.code == 0, ran.err
    rows: list[dict[str, Any]] = json.loads(ran.out)["records"]
    return rows


def test_attempt_and_outcome_are_one_row(run: Run, log: FakeControl) -> None:
    rows = _rows(run)
    assert len(rows) == 11
    assert [row["index"] for row in rows] == sorted(row["index"] for row in rows)
    assert rows[1]["outcome"]["result"] == "failed"
    assert "outcome" not in rows[-1]
    assert "open" in run("audit", "show").out.splitlines()[-1]


def test_filters_and_count(run: Run, log: FakeControl) -> None:
    assert {row["client"] for row in _rows(run, "--client", "web1")} == {"web1"}
    assert {row["key_name"] for row in _rows(run, "--key", "shop")} == {"shop"}
    assert [row["index"] for row in _rows(run, "--client", "web1", "--count", "1")] == [17]


def test_filter_finds_control_operations_on_a_key(run: Run, log: FakeControl) -> None:
    log.event("control.done", "alice", op="key.generate", target_name="shop")
    assert _rows(run, "--key", "shop")[-1]["event"] == "control.done"


def test_a_destroyed_key_is_found_by_each_of_its_names_and_by_its_digest(run: Run, log: FakeControl) -> None:
    """Its records have the name that it had, or none; a key of another page has the name now and then."""
    for number, names in enumerate((["a"], ["b"], ["c"], ["old", "older"]), 1):
        spans = [messages.KeyNameSpan(name, NOW, NOW) for name in names]
        log.past.append(messages.PastKey(number, f"{number}" * 64, "", False, NOW, NOW, spans))
    log.event("control.done", "alice", op="key.rename", target_name="older", target_digest="4" * 64)
    log.event("control.done", "alice", op="key.destroy", target_name="old", target_digest="4" * 64)
    log.event("control.done", "alice", op="key.destroy", target_name="b", target_digest="2" * 64)
    for key in ("old", "older", "4" * 64):
        assert [row["fields"]["op"] for row in _rows(run, "--key", key)] == ["key.rename", "key.destroy"]


@pytest.mark.parametrize("role", ["operator", "owner"])
def test_the_making_of_a_key_is_found_by_its_digest(run: Run, log: FakeControl, role: str) -> None:
    """Its begin names no digest, because there was no key."""
    log.role = role
    log.event("control.begun", "alice", op="key.generate", target_name="other")
    log.event("control.begun", "alice", op="key.generate", target_name="pay", target_owner="web1")
    made = {"op": "key.generate", "target_name": "pay", "target_owner": "web1", "target_digest": "7" * 64}
    log.event("control.done", "alice", begun=21, **made)
    rows = _rows(run, "--key", "7" * 64)
    assert [(row["index"], row["outcome"]["index"]) for row in rows] == [(21, 22)]


def test_a_row_names_the_client_before_the_error_and_the_key_in_its_column(
    run: Run, daemon: FakeControl
) -> None:
    grant = {"target_client": "web1", "target_key": "www"}
    daemon.event("control.failed", "alice", op="grant.add", error="it has passed; give a later time", **grant)
    daemon.event("grant.used", "web1", attempt=7, grant=2, key="ab" * 32, number=1)
    lines = run("audit", "show").out.splitlines()
    assert lines[1].endswith("www               failed, client web1: it has passed; give a later time")
    assert lines[2].endswith("abababababababab  attempt 7, grant 2, number 1")


@pytest.mark.parametrize("role", ["owner", "front-end", "node"])
def test_other_clients_see_the_newest_of_the_records_that_they_may_read(
    run: Run, log: FakeControl, role: str
) -> None:
    log.role = role
    assert [row["client"] for row in _rows(run, "--count", "3")] == ["web1"] * 3
    assert [row["index"] for row in _rows(run, "--count", "1")] == [17]
    assert _rows(run, "--client", "web2") == []
    ran = run("audit", "show")
    assert "Records 1 to 2 are in an archive that the daemon cannot read." in ran.err
    assert (
        "Left out, because their attempts are in such an archive: outcomes and uses of grants (1)." in ran.err
    )
    assert not [each for each in log.asked if isinstance(each, messages.AuditRead)], (
        "it would be refused and recorded"
    )


def test_verify_asks_for_every_record(run: Run, log: FakeControl) -> None:
    ran = run("audit", "verify", "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["records"] == len(log.lines)


@pytest.mark.parametrize("index", [0, 7, 18])
def test_a_changed_record_is_found_through_the_daemon_and_in_a_file(
    run: Run, log: FakeControl, home: Path, index: int
) -> None:
    log.lines[index] = log.lines[index].replace(b"2030-01-02", b"2029-01-02")
    (home / "log").write_bytes(b"".join(line + b"\n" for line in log.lines))
    for arguments in (("audit", "verify"), ("audit", "verify", "--log", "log")):
        ran = run(*arguments, "--json")
        assert ran.code == 4
        assert json.loads(ran.out)["first_bad"] == index


def test_a_truncated_log_is_found_with_a_head_noted_earlier(run: Run, log: FakeControl) -> None:
    noted = json.loads(run("audit", "verify", "--json").out)
    head = f"{noted['records']}:{noted['head']}"
    assert run("audit", "verify", "--expect", head).code == 0
    del log.lines[-1]
    assert run("audit", "verify").code == 0
    ran = run("audit", "verify", "--expect", head)
    assert (ran.code, "CHANGED" in ran.out) == (4, True)


@pytest.mark.parametrize("head", ["x", "3", "3:abc", "-1:" + "0" * 64, "1:" + "g" * 64])
def test_expected_head_is_checked(run: Run, log: FakeControl, head: str) -> None:
    assert run("audit", "verify", f"--expect={head}").code == 2


def test_verifying_a_file_needs_neither_daemon_nor_profile(run: Run, home: Path) -> None:
    (home / "log").write_bytes(b"not a record\n")
    assert run("audit", "verify", "--log", "log").code == 4


def test_records_that_were_not_archived_are_shown(
    run: Run, log: FakeControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = log.on_audit_read

    def without_the_oldest(request: messages.AuditRead) -> messages.AuditPage:
        if 0 <= request.first < 9:
            raise NotFound("record 8 was archived")
        return read(request)

    monkeypatch.setattr(log, "on_audit_read", without_the_oldest)
    assert [row["index"] for row in _rows(run)] == [9, 11, 13, 15, 17, 19]


@pytest.mark.parametrize("command", ["verify", "verify-export"])
def test_a_file_without_a_key_is_named_with_the_command_that_prints_one(
    run: Run, home: Path, command: str
) -> None:
    (home / "log").write_bytes(b"")
    (home / "empty.key").write_bytes(b"")
    (home / "other.key").write_text("an unrelated text\n")
    arguments = ["--log", "log"] if command == "verify" else ["log"]
    for key, hint in (
        ("empty.key", "hsmd audit key"),
        ("none.key", "name a readable file"),
        ("other.key", "'an unrelated text' is not a verifier key"),
    ):
        ran = run("audit", command, *arguments, "--public-key", key)
        assert ran.code == 2
        assert key in ran.err and hint in ran.err


def test_failures_and_recent_records_are_selected(run: Run, log: FakeControl) -> None:
    log.event("control.refused", "web1", op="key.generate")
    failed = _rows(run, "--failed")
    assert [row.get("outcome", row).get("result") or row["event"] for row in failed] == [
        "failed",
        "control.refused",
    ]
    last = _rows(run)[-1]["time"]
    assert _rows(run, "--since", "2999-01-01") == []
    assert _rows(run, "--since", last)[-1]["time"] == last
    assert len(_rows(run, "--since", "2000-01-01")) == len(_rows(run))
    ran = run("audit", "show", "--since", "yesterday")
    assert (ran.code, "is not a time" in ran.err) == (2, True)
