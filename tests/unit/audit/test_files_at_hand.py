"""Records are read wherever they are: in the live file, in segments, in archives; what is not at hand is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hsmd.daemon.audit import AuditLog, files_at_hand
from hsmd.daemon.audit.archiving import archive
from hsmd.daemon.audit.files_at_hand import FilesAtHand
from hsmd.daemon.audit.readers import Reader, about, may_read
from hsmd.errors import AuditFailure, NotFound
from hsmd.system.log_files import ARCHIVED_NAME, segment_name
from hsmd.transparency.records import parse_record

GRANT = ("web-1", "SHA256:abc", "www", b"\1" * 32, "tls13-server", 0x0403)
ALL = Reader("auditor", everything=True)


def write(log: AuditLog, count: int) -> None:
    for number in range(count):
        log.event("test.event", "", number=number)
    log.commit()


async def sealed(log: AuditLog, *counts: int) -> list[int]:
    """Write and seal segments; return the index of the first record of each, and that of the live file."""
    firsts = [log.size]
    for count in counts:
        write(log, count)
        firsts.append(await log.seal())
    return firsts


def indices(log: AuditLog, first: int = 0) -> list[int]:
    with log.view() as view, FilesAtHand(view) as files:
        return [index for index, _ in files.lines(first)]


def moved(path: Path, to: Path, first: int) -> Path:
    """Archive all segments, remove the one that begins with `first`; return its copy."""
    archive(path.parent, to, remove=False)
    (path.parent / "segments" / segment_name(first)).unlink()
    return to / segment_name(first)


async def test_every_record_is_found_wherever_it_is(open_log, path: Path, tmp_path: Path) -> None:
    log = open_log()
    firsts = await sealed(log, 5, 300, 40)
    write(log, 3)
    everything = list(range(log.size))
    for first in (firsts[1], firsts[0], firsts[2]):
        moved(path, tmp_path / "archive", first)
        assert indices(log) == everything
        assert indices(log, firsts[1] + 7) == everything[firsts[1] + 7 :]
    with log.view() as view, FilesAtHand(view) as files:
        for index in everything:
            assert parse_record(files.line(index).rstrip(b"\n")).index == index
        with pytest.raises(NotFound):
            files.line(log.size)
    assert indices(log, log.size) == []


async def test_few_files_are_open_at_a_time(open_log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_at_hand, "MAX_OPEN", 2)
    log = open_log()
    firsts = await sealed(log, *[3] * 12)
    with log.view() as view:
        before = len(os.listdir("/proc/self/fd"))
        with FilesAtHand(view) as files:
            for index in [*firsts, *reversed(firsts)]:
                files.line(index)
                assert len(os.listdir("/proc/self/fd")) <= before + 2
        assert len(os.listdir("/proc/self/fd")) == before


async def test_a_segment_that_is_archived_while_it_is_read(open_log, path: Path, tmp_path: Path) -> None:
    """The list of archives is read again when a segment is gone."""
    log = open_log()
    firsts = await sealed(log, 5, 5)
    with log.view() as view, FilesAtHand(view) as files:
        lines = files.lines(0)
        assert next(lines)[0] == 0
        for first in firsts[:2]:
            moved(path, tmp_path / "archive", first)
        assert [index for index, _ in lines] == list(range(1, log.size))


@pytest.mark.parametrize("what", ["nothing", "a link", "a directory", "a FIFO", "unreadable", "empty"])
async def test_a_copy_that_cannot_be_read_is_away(open_log, path: Path, tmp_path: Path, what: str) -> None:
    log = open_log()
    firsts = await sealed(log, 5, 5, 5)
    copy = moved(path, tmp_path / "archive", firsts[1])
    aside = copy.rename(tmp_path / "aside")
    match what:
        case "a link":
            copy.symlink_to(aside)
        case "a directory":
            copy.mkdir()
        case "a FIFO":
            os.mkfifo(copy)
        case "empty":
            copy.touch()
        case "unreadable":
            copy.symlink_to(copy)
    with log.view() as view, FilesAtHand(view) as files:
        found = about(files, log.size, 0, 500, ALL)
        assert found.away == [(firsts[1], firsts[2])]
        assert len(found.lines) == log.size - (firsts[2] - firsts[1])
        with pytest.raises(NotFound, match=f"was archived to {tmp_path / 'archive'}"):
            files.line(firsts[1])
        # From within what is away; and up to its end in one step.
        inside = about(files, log.size, firsts[1] + 2, 500, ALL)
        assert inside.away == [(firsts[1] + 2, firsts[2])]


async def test_a_truncated_copy_ends_where_it_ends(open_log, path: Path, tmp_path: Path) -> None:
    log = open_log()
    firsts = await sealed(log, 9, 5)
    copy = moved(path, tmp_path / "archive", firsts[0])
    copy.write_bytes(copy.read_bytes()[:-30])
    with log.view() as view, FilesAtHand(view) as files:
        found = about(files, log.size, 0, 500, ALL)
    assert found.away == [(firsts[1] - 1, firsts[1])]
    assert found.following == log.size


@pytest.mark.parametrize(
    "change", [lambda data: data.replace(b'{"index":3,', b'{"index":4,', 1), lambda data: b"x" + data[1:]]
)
async def test_a_changed_copy_is_reported(open_log, path: Path, tmp_path: Path, change) -> None:
    log = open_log()
    firsts = await sealed(log, 9)
    copy = moved(path, tmp_path / "archive", firsts[0])
    copy.write_bytes(change(copy.read_bytes()))
    with log.view() as view, FilesAtHand(view) as files, pytest.raises(AuditFailure):
        about(files, log.size, 0, 500, ALL)


async def test_a_damaged_list_of_archives_is_reported_and_hides_nothing(open_log, path: Path) -> None:
    log = open_log()
    await sealed(log, 9)
    (path.parent / "segments" / ARCHIVED_NAME).write_text('[{"first": "x"}]')
    with log.view() as view, pytest.raises(AuditFailure):
        FilesAtHand(view)


async def test_an_outcome_of_an_attempt_that_is_away_is_counted(open_log, path: Path, tmp_path: Path) -> None:
    """Whom it is about is not known; when the archive is back, its reader gets it."""
    log = open_log()
    attempt = log.attempt(*GRANT, b"")
    log.event("grant.used", "", attempt=attempt, grant=1, number=1)
    log.commit()
    firsts = [0, await log.seal()]
    outcome = log.outcome(attempt, "performed", b"x")
    log.commit()
    copy = moved(path, tmp_path / "archive", firsts[0])
    aside = copy.rename(tmp_path / "aside")
    me, other = Reader("web-1"), Reader("web-2")
    for reader in (me, other):
        with log.view() as view, FilesAtHand(view) as files:
            found = about(files, log.size, 0, 500, reader)
            assert (found.lines, found.undecided, found.away) == ([], 1, [(0, firsts[1])])
            assert not may_read(files, files.line(outcome), reader)
    aside.rename(copy)
    with log.view() as view, FilesAtHand(view) as files:
        found = about(files, log.size, 0, 500, me)
        assert [parse_record(line.encode()).event for line in found.lines] == [
            "attempt",
            "grant.used",
            "outcome",
        ]
        assert (found.undecided, found.away) == (0, [])
        assert may_read(files, files.line(outcome), me)
        assert about(files, log.size, 0, 500, other).lines == []
