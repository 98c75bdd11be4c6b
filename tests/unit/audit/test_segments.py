"""Sealed segments: one chain over several files, also after the writer was killed at any point, and archived records."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hsmd.daemon.audit import AuditLog
from hsmd.daemon.audit.archive_list import Archived, to_json
from hsmd.daemon.audit.disk import Disk
from hsmd.errors import AuditFailure, NotFound
from hsmd.system.log_files import log_lines
from hsmd.transparency.lines import Head, leaf_hash
from hsmd.transparency.records import parse_record
from tests.support.audit_logs import end_of_chain

GRANT = ("web-1", "SHA256:abc", "www", bytes(32), "tls13-server", 0x0403)


def write(log: AuditLog, count: int) -> None:
    for number in range(count):
        log.event("test.event", "", number=number)
    log.commit()


def assert_intact(directory: Path, log: AuditLog) -> None:
    assert end_of_chain(log_lines(directory)) == Head(log.size, log.head)


def read_all(log: AuditLog) -> list[str]:
    lines: list[str] = []
    while len(lines) < log.size:
        lines += log.read(len(lines), 100)
    return lines


async def test_the_chain_continues_over_files_and_restarts(open_log, path: Path) -> None:
    log = open_log()
    firsts = [0]
    for count in (1, 40, 250):
        write(log, count)
        firsts.append(await log.seal())
    write(log, 3)
    names = sorted(entry.name for entry in (path.parent / "segments").iterdir())
    assert names == [f"{first:012}.jsonl" for first in firsts[:-1]]
    assert [parse_record(line.encode()).index for line in read_all(log)] == list(range(log.size))
    assert_intact(path.parent, log)
    await log.close()
    again = open_log()
    assert (again.size, again.head) == (log.size, log.head)
    write(again, 2)
    assert_intact(path.parent, again)


async def test_an_attempt_left_open_in_a_sealed_segment_is_closed_at_the_next_start(
    open_log, path: Path
) -> None:
    log = open_log()
    attempt = log.attempt(*GRANT, b"")
    log.commit()
    for _ in range(3):
        await log.seal()
    log.outcome(log.attempt(*GRANT, b""), "performed", b"x")
    log.commit()
    await log.close()
    again = open_log()
    record = parse_record(again.read(-1, 1)[0].encode())
    assert (record.event, record.attempt, record.result) == ("outcome", attempt, "unknown")
    assert_intact(path.parent, again)


async def test_an_outcome_may_be_in_a_later_segment(open_log, path: Path) -> None:
    log = open_log()
    attempt = log.attempt(*GRANT, b"")
    log.commit()
    await log.seal()
    log.outcome(attempt, "performed", b"x")
    log.commit()
    assert log.open_attempts == 0
    assert_intact(path.parent, log)


async def test_sealing_is_due_at_the_segment_size(open_log) -> None:
    log = open_log(segment_bytes=2_000)
    assert not log.seal_due
    write(log, 20)
    assert log.seal_due
    await log.seal()
    assert not log.seal_due


async def test_an_empty_log_is_not_sealed(open_log, path: Path) -> None:
    assert await open_log().seal() == 0
    assert list((path.parent / "segments").iterdir()) == []


@pytest.mark.parametrize("change", [b"\x00", b"x"])
async def test_a_change_in_a_segment_is_found_by_a_start_that_reads_it(
    open_log, path: Path, change: bytes
) -> None:
    log = open_log()
    log.attempt(*GRANT, b"")  # stays open, so that a start reads from here
    write(log, 5)
    await log.seal()
    await log.close()
    segment = path.parent / "segments" / f"{0:012}.jsonl"
    data = bytearray(segment.read_bytes())
    data[-20:-19] = change
    segment.write_bytes(data)
    with pytest.raises(AuditFailure, match="was changed at byte"):
        AuditLog.open(path.parent)


async def test_a_segment_is_never_overwritten(open_log, path: Path) -> None:
    log = open_log()
    write(log, 5)
    (path.parent / "segments" / f"{0:012}.jsonl").write_bytes(b"")
    with pytest.raises(AuditFailure, match="cannot be sealed"):
        await log.seal()
    (path.parent / "segments" / f"{0:012}.jsonl").unlink()
    write(log, 5)
    assert_intact(path.parent, log)
    assert await log.seal() > 0


async def test_a_disk_error_while_sealing_leaves_the_log_unchanged(path: Path) -> None:
    class Failing(Disk):
        fail = False

        def sync(self, fd: int) -> None:
            if self.fail:
                raise OSError(5, "Input/output error")
            os.fdatasync(fd)

    disk = Failing()
    log = AuditLog.open(path.parent, disk=disk)
    write(log, 5)
    disk.fail = True
    with pytest.raises(AuditFailure):
        await log.seal()
    disk.fail = False
    while not log.writable:
        try:
            log.commit()
        except AuditFailure:
            continue
    write(log, 1)
    assert await log.seal() > 0
    assert_intact(path.parent, log)
    await log.close()


async def test_a_failed_directory_sync_while_sealing_leaves_the_log_unchanged(
    open_log, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log()
    write(log, 5)

    def failing(fd: int) -> None:
        if os.path.samestat(os.fstat(fd), path.parent.stat()):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(AuditFailure, match="cannot be sealed"):
        await log.seal()
    monkeypatch.undo()
    assert [entry.name for entry in (path.parent / "segments").iterdir()] == []
    write(log, 1)
    assert log.writable
    assert await log.seal() > 0
    assert_intact(path.parent, log)


async def test_an_error_names_where_records_were_archived(open_log, path: Path) -> None:
    log = open_log()
    write(log, 10)
    second = await log.seal()
    write(log, 10)
    await log.seal()
    segments = path.parent / "segments"
    (segments / "archived.json").write_text(to_json([Archived(0, second, "00", "/srv/archive")]))
    (segments / f"{0:012}.jsonl").unlink()
    with pytest.raises(NotFound, match="archived to /srv/archive"):
        log.read(3, 1)
    assert parse_record(log.read(second, 1)[0].encode()).index == second
    await log.close()
    again = open_log()
    assert again.size == log.size


async def test_the_tree_covers_archived_segments_too(open_log, path: Path) -> None:
    log = open_log()
    tree = log.tree()
    write(log, 600)
    second = await log.seal()
    write(log, 300)
    tree.grow()
    root = tree.root()
    log.event("log.checkpoint", "", origin="hsmd/x", size=tree.size, root=root.hex(), signature="AAAAAAE=")
    log.commit()
    size = tree.size
    tree.close()
    (path.parent / "segments" / f"{0:012}.jsonl").unlink()
    again = log.tree()
    assert (again.size, again.root()) == (size, root)
    assert again.inclusion(3, size)
    again.grow()
    assert again.size == log.size
    again.close()
    for file in (path.parent / "tree").iterdir():
        file.unlink()
    with pytest.raises(AuditFailure, match=f"before {second} are archived"):
        log.tree()


# --- kill -9 at each named point ---

KILLED = """
import asyncio, os, signal, sys
from hsmd.daemon.audit import AuditLog
from hsmd.daemon.audit.disk import Disk

class Deadly(Disk):
    def reached(self, point):
        if point == sys.argv[2]:
            os.kill(os.getpid(), signal.SIGKILL)

async def main():
    log = AuditLog.open(sys.argv[1], disk=Deadly())
    for round in range(3):
        log.attempt("web-1", "c", "www", bytes(32), "tls13-server", 0x0403, b"")
        for number in range(50):
            log.event("test.event", "", number=number)
        log.commit()
        print(log.size, log.head, flush=True)
        await log.seal()

asyncio.run(main())
"""


@pytest.mark.parametrize("point", ["synced", "renamed", "begun", "sealed", "never"])
async def test_no_record_is_lost_when_the_writer_is_killed_while_sealing(tmp_path: Path, point: str) -> None:
    directory = tmp_path / "audit"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    acknowledged: list[Head] = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(directory), point],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            timeout=60,
            check=False,
        )
        assert done.returncode == (0 if point == "never" else -signal.SIGKILL)
        acknowledged += [Head(int(size), head) for size, head in map(str.split, done.stdout.splitlines())]
    log = AuditLog.open(directory)
    assert log.open_attempts == 0
    assert_intact(directory, log)
    for head in acknowledged:
        assert leaf_hash(log.read(head.size - 1, 1)[0].encode()).hex() == head.head
    outcomes = [record for line in read_all(log) if (record := json.loads(line))["event"] == "outcome"]
    assert {record["result"] for record in outcomes} == {"unknown"}
    assert len(outcomes) == len(acknowledged)
    await log.close()
