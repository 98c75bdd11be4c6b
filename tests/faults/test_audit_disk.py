"""The audit log with killed writers, full and failing disks, and removed files: a record exists only if it was written."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hsmd.daemon.audit import AuditLog
from hsmd.daemon.audit.disk import Disk
from hsmd.daemon.audit.log import COUNTED
from hsmd.daemon.audit.refusals import BURST
from hsmd.errors import AuditFailure
from hsmd.transparency.lines import Head
from hsmd.transparency.records import parse_record
from tests.support.audit_logs import end_of_chain

GRANT = ("web-1", "SHA256:abc", "www", bytes(32), "tls13-server", 0x0403)
KILLS = 30


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit" / "audit.jsonl"


class BadDisk(Disk):
    """A disk that fails on demand; `take` is the number of bytes that still fit, None for no limit."""

    def __init__(self):
        self.take = None
        self.error = errno.ENOSPC
        self.no_truncate = self.no_sync = False
        self.release = threading.Event()
        self.release.set()

    def write(self, fd, data):
        if self.take is None:
            return os.write(fd, data)
        if self.take == 0:
            raise OSError(self.error, os.strerror(self.error))
        written = os.write(fd, bytes(data[: self.take]))
        self.take -= written
        return written

    def truncate(self, fd, size):
        if self.no_truncate:
            raise OSError(errno.EIO, "Input/output error")
        os.ftruncate(fd, size)

    def sync(self, fd):
        self.release.wait(20)
        if self.no_sync:
            raise OSError(errno.EIO, "Input/output error")
        os.fdatasync(fd)


@pytest.fixture
async def bad(path):
    """(log, disk): a log with one record, on a disk that can be made to fail."""
    disk = BadDisk()
    log = AuditLog.open(path.parent, disk=disk)
    log.event("daemon.started", "")
    log.commit()
    yield log, disk
    disk.take, disk.no_truncate, disk.no_sync = None, False, False
    disk.release.set()
    if not log.closed:
        with contextlib.suppress(AuditFailure):
            await log.close()


def records_of(path):
    return [parse_record(line) for line in path.read_bytes().splitlines()]


def read(path):
    return Path(path).read_bytes()


def assert_intact(path, log):
    with path.open("rb") as file:
        assert end_of_chain(file) == Head(log.size, log.head)


async def until(condition, timeout_s=5.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("take", [0, 1, 200, 700])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
async def test_a_failed_write_leaves_no_record_and_the_log_recovers(bad, path, take, error):
    log, disk = bad
    open_attempt = log.attempt(*GRANT, b"")
    log.commit()
    before, size, head = path.read_bytes(), log.size, log.head
    disk.take, disk.error = take, error
    lost = [log.attempt(*GRANT, b"lost") for _ in range(3)]
    log.outcome(open_attempt, "performed", b"answer")
    with pytest.raises(AuditFailure) as failure:
        log.commit()
    assert os.strerror(error) in failure.value.detail
    assert (path.read_bytes(), log.size, log.head, log.writable) == (before, size, head, False)
    disk.take = None
    log.commit()
    assert log.writable
    kept, recovered = records_of(path)[size:]
    assert (kept.event, kept.attempt, kept.result) == ("outcome", open_attempt, "performed")
    assert (recovered.event, recovered.fields) == ("log.recovered", {"dropped": 3})
    assert log.open_attempts == 0
    assert log.attempt(*GRANT, b"next") == size + 2
    assert lost[0] == size
    log.commit()
    assert_intact(path, log)


async def test_a_failed_truncation_is_retried_before_the_next_record(bad, path):
    log, disk = bad
    disk.take, disk.no_truncate = 100, True
    log.attempt(*GRANT, b"")
    with pytest.raises(AuditFailure):
        log.commit()
    assert not path.read_bytes().endswith(b"\n")
    disk.take = None
    for _ in range(2):
        log.attempt(*GRANT, b"")
        with pytest.raises(AuditFailure):
            log.commit()
    disk.no_truncate = False
    log.attempt(*GRANT, b"")
    log.commit()
    assert log.writable
    assert records_of(path)[-1].fields == {"dropped": 3}
    assert_intact(path, log)


async def test_outcomes_are_recorded_once_after_many_failures(bad, path):
    log, disk = bad
    attempts = [log.attempt(*GRANT, b"") for _ in range(20)]
    log.commit()
    disk.take = 0
    for attempt in attempts:
        log.outcome(attempt, "performed", bytes([attempt]))
        with pytest.raises(AuditFailure):
            log.commit()
    disk.take = None
    log.commit()
    outcomes = [record.attempt for record in records_of(path) if record.event == "outcome"]
    assert outcomes == attempts
    assert_intact(path, log)


async def test_counted_refusals_of_a_long_outage_are_recorded_once(path):
    now = [0.0]
    disk = BadDisk()
    log = AuditLog.open(path.parent, disk=disk, monotonic=lambda: now[0])
    refused = 0
    disk.take = 0
    for _ in range(50):
        now[0] += 1.5
        for _ in range(2 * BURST):
            refused += (
                log.refusal("noisy", "SHA256:n", bytes(32), "tls13-server", 0x0403, b"", "no grant")
                == COUNTED
            )
        with pytest.raises(AuditFailure):
            log.commit()
    disk.take = None
    now[0] += 1.5
    log.commit()
    refusals = [record for record in records_of(path) if record.event == "log.refusals"]
    assert [(record.client, record.fields) for record in refusals] == [("noisy", {"count": refused})]
    dropped = next(record.fields["dropped"] for record in records_of(path) if record.event == "log.recovered")
    assert dropped + refused == 50 * 2 * BURST
    assert_intact(path, log)
    await log.close()


async def test_a_strict_log_counts_a_failed_sync_as_a_failed_write(path):
    disk = BadDisk()
    log = AuditLog.open(path.parent, disk=disk, sync="always")
    disk.no_sync = True
    log.attempt(*GRANT, b"")
    with pytest.raises(AuditFailure):
        log.commit()
    assert path.read_bytes() == b""
    disk.no_sync = False
    log.attempt(*GRANT, b"")
    log.commit()
    assert_intact(path, log)
    await log.close()


async def test_a_failed_background_sync_stops_the_log_until_the_records_are_synced(bad, path):
    log, disk = bad
    await log.commit_durable()
    disk.no_sync = True
    log.attempt(*GRANT, b"")
    log.commit()
    await until(lambda: not log.writable)
    with pytest.raises(AuditFailure, match="cannot be written"):
        log.commit()
    with pytest.raises(AuditFailure):
        await log.commit_durable()
    disk.no_sync = False

    def recovered():
        try:
            log.commit()
        except AuditFailure:
            return False
        return log.writable

    await until(recovered)
    log.event("key.generate", "ops")
    await log.commit_durable()
    assert_intact(path, log)


async def test_after_a_failed_sync_changed_bytes_on_disk_are_not_accepted(bad, path):
    log, disk = bad
    await log.commit_durable()
    disk.no_sync = True
    log.event("key.generate", "ops", number=1)
    log.commit()
    await until(lambda: not log.writable)
    path.write_bytes(path.read_bytes().replace(b'"number":1', b'"number":2'))
    disk.no_sync = False
    for _ in range(5):
        with pytest.raises(AuditFailure):
            await log.commit_durable()
    assert not log.writable
    with pytest.raises(AuditFailure):
        await log.close()


async def test_a_durable_commit_on_a_failing_disk_fails_in_time(bad):
    log, disk = bad
    await log.commit_durable()
    disk.no_sync = True
    log.event("key.generate", "ops")
    started = time.monotonic()
    with pytest.raises(AuditFailure) as failure:
        await log.commit_durable()
    assert "syncing" in failure.value.detail
    assert time.monotonic() - started < 2


async def test_a_hanging_sync_stops_the_log_without_blocking_it(path):
    now = [0.0]
    disk = BadDisk()
    log = AuditLog.open(path.parent, disk=disk, monotonic=lambda: now[0])
    disk.release.clear()
    log.event("daemon.started", "")
    log.commit()
    await until(lambda: log._syncer._busy_since is not None)
    log.event("key.generate", "ops")
    log.commit()
    now[0] = 60.0
    started = time.monotonic()
    log.event("key.generate", "ops")
    with pytest.raises(AuditFailure) as failure:
        log.commit()
    assert "too long" in failure.value.detail
    assert time.monotonic() - started < 0.25
    disk.release.set()
    await until(lambda: not log._syncer.stalled)
    log.commit()
    assert log.writable
    assert_intact(path, log)
    await log.close()


async def test_a_removed_file_is_noticed_at_the_next_commit(bad, path):
    log, _ = bad
    content = path.read_bytes()
    path.unlink()
    for _ in range(2):
        log.attempt(*GRANT, b"")
        with pytest.raises(AuditFailure) as failure:
            log.commit()
    assert f"/proc/{os.getpid()}/fd/" in failure.value.detail
    assert not log.writable
    rescued = failure.value.detail.split(" from ")[1].split(":")[0]
    assert read(rescued) == content
    with pytest.raises(AuditFailure):
        await log.close()
    assert not path.exists()


async def test_a_renamed_file_stops_the_log_until_it_is_moved_back(path, tmp_path):
    now = [0.0]
    log = AuditLog.open(path.parent, monotonic=lambda: now[0])
    log.event("daemon.started", "")
    log.commit()
    path.rename(tmp_path / "rotated")
    now[0] += 1.0
    log.attempt(*GRANT, b"")
    with pytest.raises(AuditFailure) as failure:
        log.commit()
    assert "renamed" in failure.value.detail
    path.write_bytes((tmp_path / "rotated").read_bytes())
    with pytest.raises(AuditFailure) as failure:
        log.commit()
    assert "replaced" in failure.value.detail
    (tmp_path / "rotated").rename(path)
    log.commit()
    assert log.writable
    assert_intact(path, log)
    await log.close()


@pytest.mark.parametrize("change", ["shorter", "longer"])
async def test_bytes_removed_or_added_by_others_are_noticed_and_left_unchanged(bad, path, change):
    log, _ = bad
    if change == "shorter":
        os.truncate(path, path.stat().st_size - 10)
    else:
        with path.open("ab") as file:
            file.write(b"{}\n")
    content = path.read_bytes()
    log.attempt(*GRANT, b"")
    with pytest.raises(AuditFailure) as failure:
        log.commit()
    assert "another process changed it" in failure.value.detail
    assert path.read_bytes() == content
    with pytest.raises(AuditFailure):
        await log.close()


# --- real limits and real kills, in separate processes ---

FULL_DISK = """
import asyncio, resource, signal, sys
from hsmd.daemon.audit import AuditLog
from hsmd.errors import AuditFailure

async def main():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    log = AuditLog.open(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
    refused = 0
    for number in range(400):
        attempt = log.attempt("web-1", "SHA256:abc", "www", bytes(32), "tls13-server", 0x0403, b"")
        try:
            log.commit()
            log.outcome(attempt, "performed", b"x")
            log.commit()
        except AuditFailure:
            refused += 1
        if number == 300:
            size = log.size
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(refused, size, log.size, log.writable, log.open_attempts)
    await log.close()

asyncio.run(main())
"""

WRITER = """
import asyncio, random, sys
from hsmd.daemon.audit import AuditLog

async def main():
    log = AuditLog.open(sys.argv[1])
    print("open", flush=True)
    pending = []
    while True:
        for _ in range(random.randrange(300 - len(pending))):
            pending.append(log.attempt("web-1", "c" * 250, "www", bytes(32), "tls13-server", 0x0403, b""))
        log.commit()
        for _ in range(random.randrange(len(pending) + 1)):
            log.outcome(pending.pop(0), "performed", b"x")
        log.commit()

asyncio.run(main())
"""


def start(script, *arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True, env=environment
    )


async def test_a_full_disk_refuses_records_until_there_is_space(path):
    with start(FULL_DISK, str(path.parent)) as process:
        output, _ = process.communicate(timeout=60)
    refused, size_when_full, size, writable, still_open = output.split()
    assert int(refused) > 100
    assert int(size) > int(size_when_full) > 50
    assert (writable, still_open) == ("True", "0")
    with path.open("rb") as file:
        assert end_of_chain(file).size == int(size)
    recovered = [record for record in records_of(path) if record.event == "log.recovered"]
    assert len(recovered) == 1
    assert recovered[0].fields["dropped"] >= int(refused) - 1


async def test_a_kill_at_any_moment_leaves_a_valid_log_that_can_be_continued(path):
    rng = random.Random(15)
    for _ in range(KILLS):
        with start(WRITER, str(path.parent)) as process:
            assert process.stdout.readline() == "open\n"
            # The delay varies the moment of the kill; it waits for no condition.
            await asyncio.sleep(rng.uniform(0, 0.02))
            process.kill()
        log = AuditLog.open(path.parent)
        assert log.writable
        assert log.open_attempts == 0
        await log.close()
    with path.open("rb") as file:
        assert end_of_chain(file) == Head(log.size, log.head)
    closed = {}
    attempts = set()
    for record in records_of(path):
        if record.event == "attempt":
            attempts.add(record.index)
        elif record.event == "outcome":
            assert record.attempt not in closed
            closed[record.attempt] = record.result
    assert set(closed) == attempts
    assert "unknown" in closed.values()
