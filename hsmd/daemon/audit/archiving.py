"""Copies sealed segments to an archive and, once a checkpoint covers them, removes them beside the log.

Works on the files alone, so it runs in a process of its own, also while the daemon writes. The tree of hashes stays, and so
proofs about archived records do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from hsmd.daemon.audit.archive import FILE_NAME, Archived, archived, to_json
from hsmd.daemon.audit.disk import FILE_NAME as LIVE_NAME
from hsmd.daemon.audit.recovery import MARK_EVENT, newest_event
from hsmd.daemon.audit.view import SEGMENTS, LogView, Segment, SegmentDirectory, segment_name
from hsmd.errors import AuditFailure, ProtocolError
from hsmd.system import atomic_file
from hsmd.transparency.chain import Follower
from hsmd.transparency.lines import Head
from hsmd.transparency.records import MAX_LINE_BYTES, parse_record
from hsmd.transparency.verification import CHECKPOINT_EVENT


@dataclass(frozen=True, slots=True)
class Report:
    """What was copied now, which segments were removed (their first indices), and why others were not."""

    copied: list[Archived]
    removed: list[int]
    kept: str


def archive(
    directory: Path, to: Path, *, remove: bool, progress: Callable[[int], None] = lambda count: None
) -> Report:
    """Copy every sealed segment of the log in `directory` that is not in `to` yet, verified and on disk.

    `progress` hears of bytes as they are copied. Raises AuditFailure for a segment that was changed, OSError as the system
    does; what was copied before counts.
    """
    to.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _view(directory) as (view, sealed):
        settled, why = _settled(view)
    if to.samefile(directory / SEGMENTS):  # the copy would be the original, and removed as such
        raise AuditFailure(f"{to} is where the segments are; archive them to another directory")
    known = {
        entry.first: entry for entry in archived(directory / SEGMENTS) if Path(entry.to) == to.absolute()
    }
    copied, removed = [], []
    for segment in sealed:
        path = directory / SEGMENTS / segment_name(segment.first)
        entry = known.get(segment.first)
        if entry is None or not _is_there(to / path.name, entry):
            entry = _copy(path, to, progress)
            copied.append(entry)
            _note(directory / SEGMENTS, entry)
        if remove and entry.end <= settled:
            path.unlink()
            removed.append(segment.first)
    atomic_file.sync_directory(directory / SEGMENTS)
    return Report(copied, removed, why if remove and len(removed) < len(sealed) else "")


@contextmanager
def _view(directory: Path) -> Iterator[tuple[LogView, list[Segment]]]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    segments = SegmentDirectory(fd, directory)
    try:
        live = os.open(
            LIVE_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=fd
        )  # before looking for segments
        try:
            sealed = [each for each in segments.list() if not _is_same(segments, each, live)]
            with LogView(directory / LIVE_NAME, segments, sealed, live, os.fstat(live).st_size) as view:
                yield view, sealed
        finally:
            os.close(live)
    finally:
        segments.close()
        os.close(fd)


def _is_same(segments: SegmentDirectory, segment: Segment, live: int) -> bool:
    """Whether the daemon has sealed, just now, what we opened as the live file."""
    return os.path.samestat(os.stat(segment_name(segment.first), dir_fd=segments.fd), os.fstat(live))


def _settled(view: LogView) -> tuple[int, str]:
    """Records before this index are covered by a checkpoint and have no open attempt among them; and why it is not more."""
    covered = newest_event(view, view.size, CHECKPOINT_EVENT)
    mark = newest_event(view, view.size, MARK_EVENT)
    size = int(covered[1].fields.get("size", 0)) if covered else 0
    oldest = int(mark[1].fields.get("oldest_open", 0)) if mark else 0
    if size <= oldest:
        return size, f"the newest checkpoint covers the first {size} records"
    return oldest, f"an attempt may be open from record {oldest} on"


def _copy(path: Path, to: Path, progress: Callable[[int], None]) -> Archived:
    """The segment, read record by record; its copy appears under its name when all of it is on disk."""
    part = to / f".{path.name}.part"
    digest = sha256()
    chain: Follower | None = None
    first = int(path.stem)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with path.open("rb") as source, open(descriptor, "wb") as copy:
        while line := source.readline(MAX_LINE_BYTES + 2):
            try:
                chain = chain or _entered(line, first)
                chain.follow(line.removesuffix(b"\n"))
            except ProtocolError as problem:
                raise AuditFailure(
                    f"{path} was changed: {problem.text}; it was not archived. Keep it as evidence"
                ) from None
            digest.update(line)
            copy.write(line)
            progress(len(line))
        copy.flush()
        os.fsync(copy.fileno())
    if chain is None:
        raise AuditFailure(f"{path} is empty; it was not archived")
    part.rename(to / path.name)
    atomic_file.sync_directory(to)
    return Archived(first, chain.size, digest.hexdigest(), str(to.absolute()))


def _entered(line: bytes, first: int) -> Follower:
    record = parse_record(line.removesuffix(b"\n"))
    if record.index != first:
        raise ProtocolError(f"it begins with record {record.index}")
    return Follower(Head(record.index, record.previous))


def _is_there(copy: Path, entry: Archived) -> bool:
    try:
        with copy.open("rb") as file:
            digest = sha256()
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except FileNotFoundError:
        return False
    return digest.hexdigest() == entry.sha256


def _note(segments: Path, entry: Archived) -> None:
    others = [each for each in archived(segments) if (each.first, each.to) != (entry.first, entry.to)]
    atomic_file.replace(segments / FILE_NAME, to_json([*others, entry]), 0o644)
