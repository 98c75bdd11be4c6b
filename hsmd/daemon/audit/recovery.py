"""Examines the end of a log when a daemon starts: where it continues, a torn end, and open attempts."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256

from hsmd.daemon.audit.disk import Mark
from hsmd.daemon.audit.paging import offset_of
from hsmd.daemon.audit.view import LogView
from hsmd.errors import AuditFailure, ProtocolError
from hsmd.system.log_files import lines_from
from hsmd.transparency.chain import Follower
from hsmd.transparency.lines import Head
from hsmd.transparency.records import CHECKPOINT_EVENT, MARK_EVENT, MAX_LINE_BYTES, Record, parse_record

MARK_EVERY = 10_000
"""Records between two marks, so that a start reads the end of the log only."""
_BLOCK_BYTES = 1 << 20


BEGINNING = Mark(0, Head())


@dataclass(slots=True)
class Tail:
    """The end of a log. `mark` counts bytes of the live file; the `torn_bytes` after it have the SHA-256 `torn_digest`."""

    mark: Mark = BEGINNING
    open_attempts: set[int] = field(default_factory=set)
    last_mark: int = 0
    torn_bytes: int = 0
    torn_digest: str = ""


def examine(file: LogView) -> Tail:
    """Read the log from the oldest attempt that can be open. Raises AuditFailure if it was changed.

    An end that a crash can leave is torn: an unfinished last line, or zero bytes where the file system had extended the
    file but not stored the data. A complete line that is not the next record is not torn, and neither is anything that a
    checkpoint covers: it was on disk before the checkpoint was signed.
    """
    end = file.size
    start, marked = _start_of_examination(file, end)
    tail = Tail()
    chain: Follower | None = None if start or file.first else Follower()
    at = start
    for at, line in lines_from(file.read, start, end):
        try:
            record = line.removesuffix(b"\n")
            chain = chain or Follower.entering(record)
            if record == line:
                raise ProtocolError("the line has no end")
            _note(tail, chain.follow(record))
        except ProtocolError as problem:
            if at < max(marked, file.base) or (chain.size if chain else file.first) < _covered(file, end):
                raise _changed(file, at, problem) from None
            _judge_rest(file, tail, at, end, problem)
            break
        at += len(line)
    tail.mark = Mark(at - file.base, chain.position if chain else Head())
    return tail


def _start_of_examination(file: LogView, end: int) -> tuple[int, int]:
    """Offsets of the oldest attempt that the newest mark names as open, and of that mark; 0 without a mark."""
    found = newest_event(file, end, MARK_EVENT)
    if found is None:
        return 0, 0
    offset, record = found
    oldest = record.fields.get("oldest_open")
    if not isinstance(oldest, int) or not 0 <= oldest <= record.index:
        raise AuditFailure(
            f"{file.path}: the mark in record {record.index} is wrong; run `hsmd audit verify`"
        )
    return offset if oldest == record.index else offset_of(file, oldest, offset), offset


def _covered(file: LogView, end: int) -> int:
    """The number of records that the newest checkpoint in the log covers."""
    found = newest_event(file, end, CHECKPOINT_EVENT)
    size = found[1].fields.get("size") if found else 0
    return size if isinstance(size, int) else 0


def newest_event(file: LogView, end: int, event: str) -> tuple[int, Record] | None:
    """(offset, record) of the newest record of this event, searched from the end backwards."""
    wanted = f'"event":"{event}"'.encode()
    high = end
    while high > 0:
        low = max(0, high - _BLOCK_BYTES)
        block = file.read(low, min(end, high + MAX_LINE_BYTES) - low)
        at = block.rfind(wanted, 0, high - low + len(wanted) - 1)
        while at >= 0:
            found = _record_around(file, low + at, end, event)
            if found is not None:
                return found
            at = block.rfind(wanted, 0, at)
        high = low
    return None


def _record_around(file: LogView, offset: int, end: int, event: str) -> tuple[int, Record] | None:
    """The record of this event on the line around `offset`; None if that line is not one."""
    low = max(0, offset - MAX_LINE_BYTES)
    start = low + file.read(low, offset - low).rfind(b"\n") + 1
    line, line_feed, _ = file.read(start, min(MAX_LINE_BYTES + 1, end - start)).partition(b"\n")
    try:
        record = parse_record(line)
    except ProtocolError:
        return None
    return (start, record) if line_feed and record.event == event else None


def _note(tail: Tail, record: Record) -> None:
    if record.event == "attempt":
        tail.open_attempts.add(record.index)
    elif record.event == "outcome":
        tail.open_attempts.discard(record.attempt or 0)
    elif record.event == MARK_EVENT:
        tail.last_mark = record.index


def _judge_rest(file: LogView, tail: Tail, at: int, end: int, problem: ProtocolError) -> None:
    """Note a torn end. Raises AuditFailure for an end that a crash cannot leave."""
    digest = sha256()
    lines = zeros = 0
    offset = at
    while offset < end and (chunk := file.read(offset, min(_BLOCK_BYTES, end - offset))):
        digest.update(chunk)
        lines += chunk.count(b"\n")
        zeros += chunk.count(0)
        offset += len(chunk)
    if lines and not zeros:
        raise _changed(file, at, problem)
    tail.torn_bytes, tail.torn_digest = end - at, digest.hexdigest()


def _changed(file: LogView, at: int, problem: ProtocolError) -> AuditFailure:
    return AuditFailure(
        f"{file.path} was changed at byte {at}: {problem.text}; run `hsmd audit verify`, keep the file as evidence and "
        "start with a new directory"
    )
