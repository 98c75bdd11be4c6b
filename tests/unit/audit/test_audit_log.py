"""The audit log: what it writes, what it returns, and how it continues after a restart."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys

import pytest

from hsmd.daemon.audit import AuditLog, recovery
from hsmd.daemon.audit.log import COUNTED
from hsmd.daemon.audit.paging import MAX_PAGE_BYTES
from hsmd.daemon.audit.refusals import BURST, RefusalMeter
from hsmd.errors import AuditFailure, InternalFault
from hsmd.transparency.lines import NO_HEAD, Head, leaf_hash
from hsmd.transparency.records import parse_record
from tests.support.audit_logs import end_of_chain

KEY = bytes(range(32))
GRANT = ("web-1", "SHA256:abc", "www", KEY, "tls13-server", 0x0403)


def records_of(path):
    return [parse_record(line) for line in path.read_bytes().splitlines()]


def assert_intact(path, log):
    with path.open("rb") as file:
        assert end_of_chain(file) == Head(log.size, log.head)


async def test_an_operation_leaves_attempt_and_outcome(open_log, path):
    log = open_log()
    attempt = log.attempt(*GRANT, b"asked")
    log.commit()
    assert (attempt, log.size, log.open_attempts) == (0, 1, 1)
    log.outcome(attempt, "performed", b"answer")
    log.commit()
    first, second = path.read_bytes().splitlines()
    assert json.loads(first) == {
        "index": 0, "previous": NO_HEAD, "time": "2026-11-21T12:00:00.000000Z", "event": "attempt", "client": "web-1",
        "credential": "SHA256:abc", "key_name": "www", "key": KEY.hex(), "purpose": "tls13-server", "scheme": "0403",
        "asked": hashlib.sha256(b"asked").hexdigest(),
    }  # fmt: skip
    assert json.loads(second) == {
        "index": 1, "previous": leaf_hash(first).hex(), "time": "2026-11-21T12:00:00.000000Z", "event": "outcome",
        "attempt": 0, "result": "performed", "answer": hashlib.sha256(b"answer").hexdigest(),
    }  # fmt: skip
    assert (log.head, log.open_attempts) == (leaf_hash(second).hex(), 0)


async def test_records_are_written_together_at_the_commit_and_not_before(open_log, path):
    log = open_log()
    indices = [log.attempt(*GRANT, bytes([number])) for number in range(5)]
    log.event("key.generate", "ops", name="www", bits=256)
    assert (indices, path.stat().st_size, log.size, log.head) == ([0, 1, 2, 3, 4], 0, 0, NO_HEAD)
    log.commit()
    assert [record.index for record in records_of(path)] == list(range(6))
    assert_intact(path, log)


async def test_an_attempt_has_exactly_one_outcome(open_log):
    log = open_log()
    attempt = log.attempt(*GRANT, b"")
    log.commit()
    log.outcome(attempt, "failed", None, "30 the token failed")
    for index in (attempt, 77):
        with pytest.raises(InternalFault):
            log.outcome(index, "performed", b"x")
    with pytest.raises(InternalFault):
        log.outcome(log.attempt(*GRANT, b""), "pretended", b"x")


@pytest.mark.parametrize(
    "values",
    [("web", "c", "k", KEY, "tls13-server", 0x10000), ("web", "c", "k", b"", "tls13-server", 0x0403)],
)
async def test_values_that_no_record_can_hold_raise_an_error(open_log, values):
    log = open_log()
    with pytest.raises(InternalFault):
        log.attempt(*values, b"")
    with pytest.raises(InternalFault):
        log.event("Key Generate", "ops")
    log.commit()
    assert log.size == 0


async def test_hostile_names_stay_in_one_line(open_log, path):
    log = open_log()
    hostile = 'web\r\n{"index":0}\x1b[2J\u2028\u202e\ud800\x00'
    log.attempt(hostile, hostile, hostile, KEY, hostile, 0x0403, b"")
    log.refusal(hostile, hostile, KEY, hostile, 0x0403, b"", hostile)
    log.event("client.add", hostile, name=hostile * 10_000)
    log.commit()
    data = path.read_bytes()
    assert len(data.decode("ascii").splitlines()) == data.count(b"\n") == log.size == 3
    assert records_of(path)[0].client == hostile.replace("\ud800", "\ufffd")


async def test_only_the_daemon_can_access_file_and_directory(open_log, path):
    open_log()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_directory_writable_by_other_users_is_refused(open_log, path):
    path.parent.mkdir()
    path.parent.chmod(0o777)
    with pytest.raises(AuditFailure, match="chmod go-w"):
        open_log()


async def test_a_link_instead_of_the_file_is_refused(open_log, path, tmp_path):
    path.parent.mkdir(mode=0o700)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AuditFailure):
        open_log()
    assert not (tmp_path / "elsewhere").exists()


async def test_a_second_writer_is_refused(open_log, path):
    first = open_log()
    with pytest.raises(AuditFailure, match="in use by another hsmd"):
        open_log()
    assert "in use by another hsmd" in fault_of_another_process(path.parent)
    await first.close()
    assert open_log().size == 0


def fault_of_another_process(directory):
    script = f"""
from hsmd.daemon.audit import AuditLog
from hsmd.errors import AuditFailure
try:
    AuditLog.open({str(directory)!r})
except AuditFailure as failure:
    print(failure.text)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment).stdout


async def test_a_restart_continues_at_the_end_of_the_log(open_log, path):
    log = open_log()
    log.event("daemon.started", "")
    await log.close()
    size, head = log.size, log.head
    log = open_log()
    assert (log.size, log.head) == (size, head) == (1, head)
    log.event("daemon.stopped", "")
    await log.commit_durable()
    assert_intact(path, log)


async def test_attempts_left_open_are_closed_as_unknown(open_log, path):
    log = open_log()
    first, second, third = (log.attempt(*GRANT, bytes([number])) for number in range(3))
    log.commit()
    log.outcome(second, "performed", b"x")
    await log.close()
    log = open_log()
    assert log.open_attempts == 0
    closing = [record for record in records_of(path) if record.result == "unknown"]
    assert [record.attempt for record in closing] == [first, third]
    await log.close()
    assert open_log().size == log.size


@pytest.mark.parametrize(
    "torn", [b"{", b'{"index":1,"previous":"', b"\xff\x00\n\x00" * 3000, b"\0" * 9000, b"x" * 3_000_000]
)
async def test_a_torn_end_is_truncated_and_reported(open_log, path, torn):
    log = open_log()
    attempt = log.attempt(*GRANT, b"")
    await log.close()
    with path.open("ab") as file:
        file.write(torn)
    log = open_log()
    recorded, closed = records_of(path)[1:]
    assert (recorded.event, recorded.fields) == (
        "log.torn",
        {"bytes": len(torn), "sha256": hashlib.sha256(torn).hexdigest()},
    )
    assert (closed.attempt, closed.result) == (attempt, "unknown")
    assert_intact(path, log)


@pytest.mark.parametrize("damaged", [0, 4, 9])
async def test_damage_to_records_under_a_checkpoint_is_not_a_torn_end(open_log, path, damaged):
    log = open_log()
    for number in range(10):
        log.event("key.generate", "ops", number=number)
    log.commit()
    log.event("log.checkpoint", "", origin="hsmd/x", size=10, root="0" * 64, signature="AAAAAAE=")
    await log.close()
    lines = path.read_bytes().splitlines(keepends=True)
    lines[damaged] = lines[damaged].replace(b"generate", b"gene\0ate")
    path.write_bytes(b"".join(lines))
    with pytest.raises(AuditFailure, match="was changed at byte"):
        open_log()
    assert path.read_bytes() == b"".join(lines)


async def test_a_last_record_without_its_line_feed_is_a_torn_end(open_log, path):
    log = open_log()
    log.event("daemon.started", "")
    log.event("daemon.stopped", "")
    await log.close()
    os.truncate(path, path.stat().st_size - 1)
    log = open_log()
    assert [record.event for record in records_of(path)] == ["daemon.started", "log.torn"]


@pytest.mark.parametrize("change", ["edit", "delete", "append"])
async def test_a_changed_log_is_not_continued(open_log, path, change):
    log = open_log()
    for number in range(10):
        log.event("key.generate", "ops", number=number)
    await log.close()
    lines = path.read_bytes().splitlines(keepends=True)
    if change == "edit":
        lines[4] = lines[4].replace(b'"number":4', b'"number":5')
    elif change == "delete":
        del lines[4]
    else:
        lines.append(b"{}\n")
    path.write_bytes(b"".join(lines))
    with pytest.raises(AuditFailure, match="was changed at byte"):
        open_log()
    assert path.read_bytes() == b"".join(lines)


async def test_a_start_reads_only_the_end_of_the_log(open_log, path, monkeypatch):
    monkeypatch.setattr(recovery, "MARK_EVERY", 500)
    monkeypatch.setattr("hsmd.daemon.audit.log.MARK_EVERY", 500)
    log = open_log()
    old = log.attempt(*GRANT, b"stays open")
    for number in range(3000):
        if number == 400:
            old_enough = log.attempt(*GRANT, b"stays open too")
            log.outcome(old, "performed", b"")
        log.event("key.generate", "ops", number=number)
        if number % 10 == 0:
            log.commit()
    # A field that looks like a mark must not be read as one.
    log.event("key.generate", "ops", event="log.mark", oldest_open=0)
    await log.close()
    marks = [record for record in records_of(path) if record.event == "log.mark"]
    assert len(marks) == 6
    assert [mark.fields["oldest_open"] for mark in marks] == [old_enough] * 6
    followed = []
    monkeypatch.setattr(
        recovery.Follower,
        "follow",
        lambda self, line, real=recovery.Follower.follow: followed.append(1) or real(self, line),
    )
    reopened = open_log()
    closing = records_of(path)[-1]
    assert (closing.attempt, closing.result) == (old_enough, "unknown")
    assert len(followed) == log.size - old_enough
    for number in range(600):
        reopened.event("key.generate", "ops", number=number)
        reopened.commit()
    await reopened.close()
    followed.clear()
    open_log()
    assert len(followed) < 600


async def test_the_log_is_read_in_pages(open_log, path):
    log = open_log()
    for number in range(2_000):
        log.event("key.generate", "ops", number=number, text="x" * (number % 250))
    log.commit()
    lines = path.read_text("ascii").splitlines()
    for first, limit in [(0, 1), (0, 100), (1_999, 5), (777, 500), (1_024, 3)]:
        assert log.read(first, limit) == lines[first : first + limit]
    assert log.read(-3, 100) == lines[-3:]
    assert log.read(-5_000, 2) == lines[:2]
    assert log.read(2_000, 10) == log.read(0, 0) == []
    assert [log.position(first) for first in (5, 0, -1, -3_000)] == [5, 0, 1_999, 0]
    log.event("noted", "only")
    assert log.read(-1, 1) == lines[-1:]


async def test_a_page_fits_into_an_answer(open_log):
    log = open_log()
    for _ in range(200):
        log.event("key.generate", "\U0001f511" * 256, **{f"f{number}": "\x01" * 256 for number in range(16)})
    log.commit()
    page = log.read(0, 500)
    assert 1 < len(page) < 200
    assert len(json.dumps(page, separators=(",", ":"))) <= MAX_PAGE_BYTES
    assert parse_record(page[-1].encode()).index == len(page) - 1


async def test_refusals_above_the_rate_are_counted(open_log, path):
    now = [0.0]
    log = open_log(monotonic=lambda: now[0])
    for _ in range(BURST + 40):
        index = log.refusal("noisy", "SHA256:n", KEY, "tls13-server", 0x0403, b"", "no grant")
    assert index == COUNTED
    assert log.refusal("quiet", "SHA256:q", KEY, "tls13-server", 0x0403, b"", "no grant") == BURST
    log.commit()
    assert log.size == BURST + 2
    summary = records_of(path)[-1]
    assert (summary.event, summary.client, summary.fields) == ("log.refusals", "noisy", {"count": 40})
    now[0] = 0.5
    for _ in range(8):
        log.refusal("noisy", "SHA256:n", KEY, "tls13-server", 0x0403, b"", "no grant")
    await log.close()
    assert records_of(path)[-1].fields == {"count": 3}
    assert_intact(path, log)


def test_the_memory_of_the_meter_is_bounded():
    meter = RefusalMeter()
    for number in range(25_000):
        assert meter.admit(f"client-{number}", 0.0)
    assert len(meter._rate._buckets) <= 10_002


@pytest.mark.parametrize("sync", ["group", "always"])
async def test_durable_means_synced(open_log, sync):
    disk = CountingDisk()
    log = open_log(sync=sync, disk=disk)
    log.event("key.generate", "ops")
    before = disk.synced
    await log.commit_durable()
    assert disk.synced > before
    log.event("key.generate", "ops")
    if sync == "always":
        before = disk.synced
        log.commit()
        assert disk.synced == before + 1


class CountingDisk:
    synced = 0

    def write(self, fd, data):
        return os.write(fd, data)

    def truncate(self, fd, size):
        os.ftruncate(fd, size)

    def sync(self, fd):
        os.fdatasync(fd)
        self.synced += 1


async def test_closing_releases_all_resources(open_log, path):
    before = len(os.listdir("/proc/self/fd"))
    log = open_log()
    log.event("daemon.started", "")
    await log.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert isinstance(log, AuditLog)
    assert len(records_of(path)) == 1
