"""Copies sealed segments to an archive and, once a checkpoint covers them, removes them beside the log.

It works on files only, in a process of its own, also while the daemon writes. The tree of hashes stays complete, so proofs
about archived records still work.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from hsmd.daemon.audit.archive_list import Archived, archived, to_json
from hsmd.daemon.audit.recovery import newest_event
from hsmd.daemon.audit.view import LogView
from hsmd.errors import AuditFailure, ProtocolError
from hsmd.system import atomic_file
from hsmd.system.log_files import (
    ARCHIVED_NAME,
    LIVE_NAME,
    SEGMENTS,
    Segment,
    SegmentDirectory,
    lines_from,
    reader,
)
from hsmd.transparency.chain import Follower
from hsmd.transparency.records import CHECKPOINT_EVENT, MARK_EVENT


@dataclass(frozen=True, slots=True)
class Report:
    """Segments copied now, segments removed (their first indices), and why others were kept."""

    copied: list[Archived]
    removed: list[int]
    kept: str


def archive(
    directory: Path, to: Path, *, remove: bool, progress: Callable[[int], None] = lambda count: None
) -> Report:
    """Copy every sealed segment of the log in `directory` that is not in `to` yet, verified and on disk.

    `progress` is called with the number of bytes copied. Raises AuditFailure for a segment that was changed, or OSError;
    segments copied before that stay listed.
    """
    to.mkdir(mode=0o700, parents=True, exist_ok=True)
    if (directory / LIVE_NAME).exists() and not (directory / SEGMENTS).exists():
        return Report([], [], "")  # the daemon makes the directory at its next start
    with _view(directory) as (view, sealed):
        settled, why = _settled(view)
    if to.samefile(directory / SEGMENTS):  # the copy would be the original, and then removed
        raise AuditFailure(f"{to} is the directory of the segments; archive them to another directory")
    known = {
        entry.first: entry for entry in archived(directory / SEGMENTS) if Path(entry.to) == to.absolute()
    }
    copied, removed = [], []
    for segment in sealed:
        path = directory / SEGMENTS / segment.name
        entry = known.get(segment.first)
        if entry is None or not _is_there(to / path.name, entry):
            entry = _copy(segment, path, to, progress)
            copied.append(entry)
            _note(directory / SEGMENTS, entry)
        if remove and entry.end <= settled:
            path.unlink()
            removed.append(segment.first)
    atomic_file.sync_directory(directory / SEGMENTS)
    return Report(copied, removed, why if remove and len(removed) < len(sealed) else "")


@contextmanager
def _view(directory: Path) -> Iterator[tuple[LogView, list[Segment]]]:
    path = directory / LIVE_NAME
    live = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        with SegmentDirectory(directory) as segments:
            sealed = segments.list(live)
            with LogView(path, segments, sealed, live, os.fstat(live).st_size) as view:
                yield view, sealed
    finally:
        os.close(live)


def _settled(view: LogView) -> tuple[int, str]:
    """The index before which records are covered by a checkpoint and no attempt is open; and what limits it."""
    covered = newest_event(view, view.size, CHECKPOINT_EVENT)
    mark = newest_event(view, view.size, MARK_EVENT)
    size = int(covered[1].fields.get("size", 0)) if covered else 0
    oldest = int(mark[1].fields.get("oldest_open", 0)) if mark else 0
    if size <= oldest:
        return size, f"the newest checkpoint covers the first {size} records"
    return oldest, f"an attempt may be open from record {oldest} on"


def _copy(segment: Segment, path: Path, to: Path, progress: Callable[[int], None]) -> Archived:
    """Copy a segment and check its records; the copy gets its name when all of it is on disk."""
    part = to / f".{path.name}.part"
    digest = sha256()
    chain: Follower | None = None
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with path.open("rb") as source, open(descriptor, "wb") as copy:
        for _, line in lines_from(reader(source.fileno()), 0, segment.size_bytes):
            record = line.removesuffix(b"\n")
            try:
                chain = chain or _entering(record, segment)
                chain.follow(record)
            except ProtocolError as problem:
                raise AuditFailure(
                    f"{path} was changed: {problem.text}; it was not archived; keep it as evidence"
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
    return Archived(segment.first, chain.size, digest.hexdigest(), str(to.absolute()))


def _entering(record: bytes, segment: Segment) -> Follower:
    chain = Follower.entering(record)
    if chain.size != segment.first:
        raise ProtocolError(f"it begins with record {chain.size}")
    return chain


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
    atomic_file.replace(segments / ARCHIVED_NAME, to_json([*others, entry]), 0o644)
