"""Archiving: the copies verify, and segments that a start or a proof still needs are kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hsmd.daemon.audit import AuditLog
from hsmd.daemon.audit.archiving import archive
from hsmd.errors import AuditFailure, NotFound
from hsmd.system.log_files import log_lines
from hsmd.transparency.lines import Head
from tests.support.audit_logs import end_of_chain

GRANT = ("web-1", "SHA256:abc", "www", bytes(32), "tls13-server", 0x0403)


async def sealed(log: AuditLog, segments: int = 3) -> None:
    for _ in range(segments):
        for number in range(20):
            log.event("test.event", "", number=number)
        log.commit()
        await log.seal()


def checkpoint(log: AuditLog) -> None:
    log.event("log.checkpoint", "", origin="hsmd/x", size=log.size, root="0" * 64, signature="AAAAAAE=")
    log.commit()


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "segments").glob("*.jsonl"))


async def test_copies_verify_and_are_written_once(open_log, path: Path, tmp_path: Path) -> None:
    log, to = open_log(), tmp_path / "archive"
    await sealed(log)
    copied: list[int] = []
    report = archive(path.parent, to, remove=False, progress=copied.append)
    assert [each.first for each in report.copied] == [int(name[:12]) for name in names_in(path.parent)]
    assert sum(copied) == sum((to / name).stat().st_size for name in names_in(path.parent))
    assert archive(path.parent, to, remove=False).copied == []
    (to / names_in(path.parent)[1]).write_bytes(b"rotten")
    assert len(archive(path.parent, to, remove=False).copied) == 1
    whole = tmp_path / "whole"
    shutil.copytree(to, whole / "segments")
    shutil.copy(path, whole / "audit.jsonl")
    assert end_of_chain(log_lines(whole)) == Head(log.size, log.head)


async def test_a_log_without_a_directory_of_segments_has_nothing_to_archive(
    open_log, path: Path, tmp_path: Path
) -> None:
    """A log that was restored before its first segment was sealed has none until the daemon starts."""
    await open_log().close()
    (path.parent / "segments").rmdir()
    report = archive(path.parent, tmp_path / "archive", remove=True)
    assert (report.copied, report.removed, report.kept) == ([], [], "")
    assert not (path.parent / "segments").exists()


async def test_nothing_is_removed_without_a_checkpoint(open_log, path: Path, tmp_path: Path) -> None:
    log = open_log()
    await sealed(log)
    report = archive(path.parent, tmp_path / "archive", remove=True)
    assert (report.removed, len(names_in(path.parent))) == ([], 3)
    assert "covers the first 0" in report.kept
    checkpoint(log)
    report = archive(path.parent, tmp_path / "archive", remove=True)
    assert (len(report.removed), names_in(path.parent), report.copied) == (3, [], [])
    with pytest.raises(NotFound, match=str(tmp_path / "archive")):
        log.read(0, 1)
    await log.close()
    again = open_log()
    assert (again.size, again.open_attempts) == (log.size, 0)


async def test_segments_are_not_archived_into_their_own_directory(
    open_log, path: Path, tmp_path: Path
) -> None:
    log = open_log()
    await sealed(log)
    checkpoint(log)
    link = tmp_path / "archive"
    link.symlink_to(path.parent / "segments")
    for to in (path.parent / "segments", link):
        with pytest.raises(AuditFailure, match="another directory"):
            archive(path.parent, to, remove=True)
    assert len(names_in(path.parent)) == 3


async def test_segments_with_an_open_attempt_are_kept(open_log, path: Path, tmp_path: Path) -> None:
    log = open_log()
    await sealed(log, 1)
    attempt = log.attempt(*GRANT, b"")
    log.commit()
    await log.seal()
    await sealed(log, 1)
    checkpoint(log)
    report = archive(path.parent, tmp_path / "archive", remove=True)
    assert len(report.removed) == 1
    assert f"open from record {attempt}" in report.kept
    await log.close()
    assert open_log().open_attempts == 0


async def test_a_changed_segment_is_kept_as_evidence(open_log, path: Path, tmp_path: Path) -> None:
    log = open_log()
    await sealed(log)
    checkpoint(log)
    victim = path.parent / "segments" / names_in(path.parent)[1]
    victim.write_bytes(victim.read_bytes().replace(b'"number":7', b'"number":8', 1))
    with pytest.raises(AuditFailure, match="keep it as evidence"):
        archive(path.parent, tmp_path / "archive", remove=True)
    assert victim.exists()
    assert not (tmp_path / "archive" / victim.name).exists()
