"""Reading logs from disk: files, segments, and a daemon that writes and seals at the same time."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from hsmd.system.log_files import log_lines
from hsmd.transparency.verification import verify_log
from tests.support.audit_logs import LogMaker


@pytest.fixture
def log() -> LogMaker:
    log = LogMaker()
    for _ in range(3):
        log.use(5)
        log.record_checkpoint()
    return log


@pytest.fixture
def directory(tmp_path: Path, log: LogMaker) -> Path:
    """Segments of 10 and 15 records, and a live file."""
    (tmp_path / "segments").mkdir()
    for first, end in ((0, 10), (10, 25)):
        (tmp_path / "segments" / f"{first:012}.jsonl").write_bytes(b"".join(log.lines[first:end]))
    (tmp_path / "segments" / "note.txt").write_text("not a segment")
    (tmp_path / "audit.jsonl").write_bytes(b"".join(log.lines[25:]))
    return tmp_path


def test_a_directory_is_read_in_order(directory: Path, log: LogMaker) -> None:
    assert list(log_lines(directory)) == log.lines


def test_a_single_file_is_read(directory: Path, log: LogMaker) -> None:
    assert list(log_lines(directory / "audit.jsonl")) == log.lines[25:]


def test_a_directory_without_its_first_segments_is_read(directory: Path, log: LogMaker) -> None:
    (directory / "segments" / f"{0:012}.jsonl").unlink()
    assert list(log_lines(directory)) == log.lines[10:]


def test_a_directory_without_segments_is_read(directory: Path, log: LogMaker) -> None:
    shutil.rmtree(directory / "segments")
    assert list(log_lines(directory)) == log.lines[25:]


def test_links_to_archived_segments_are_followed(
    directory: Path, tmp_path_factory: pytest.TempPathFactory, log: LogMaker
) -> None:
    archive = tmp_path_factory.mktemp("archive")
    for segment in (directory / "segments").glob("*.jsonl"):
        segment.rename(archive / segment.name)
        segment.symlink_to(archive / segment.name)
    assert list(log_lines(directory)) == log.lines


def test_a_file_that_is_sealed_while_it_is_read_is_complete(directory: Path, log: LogMaker) -> None:
    reading = log_lines(directory)
    assert next(reading) == log.lines[0]
    (directory / "audit.jsonl").rename(directory / "segments" / f"{25:012}.jsonl")
    (directory / "audit.jsonl").write_bytes(b"")
    assert list(reading) == log.lines[1:]
    assert list(log_lines(directory)) == log.lines


def test_a_file_that_was_sealed_between_opening_and_listing_is_read_once(
    directory: Path, log: LogMaker
) -> None:
    (directory / "segments" / f"{25:012}.jsonl").hardlink_to(directory / "audit.jsonl")
    assert list(log_lines(directory)) == log.lines


def test_a_line_that_is_being_written_is_awaited(directory: Path, log: LogMaker) -> None:
    live = directory / "audit.jsonl"
    whole = live.read_bytes()
    live.write_bytes(whole[:-20])

    def finish() -> None:
        with live.open("ab") as file:
            file.write(whole[-20:])

    timer = threading.Timer(0.05, finish)
    timer.start()
    try:
        assert list(log_lines(directory)) == log.lines
    finally:
        timer.join()


def test_a_line_that_is_never_finished_is_returned_incomplete(directory: Path, log: LogMaker) -> None:
    live = directory / "audit.jsonl"
    live.write_bytes(live.read_bytes()[:-1])
    times = iter([0.0, 0.5, 2.0])
    lines = list(log_lines(directory, clock=lambda: next(times)))
    assert lines == [*log.lines[:-1], log.lines[-1][:-1]]
    assert verify_log(lines, None).first_bad == 32


def test_an_endless_line_is_read_in_pieces(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * 400_000)
    times = iter(range(1000))
    pieces = list(log_lines(tmp_path / "log", clock=lambda: next(times)))
    assert max(map(len, pieces)) <= 2 * 65_536
    assert verify_log(pieces, None).first_bad == 0
