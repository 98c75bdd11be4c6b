"""Finds records by index, with a binary search over the file: each record begins with its index."""

from __future__ import annotations

from pathlib import Path

from hsmd.daemon.audit.archive_list import archived_to
from hsmd.daemon.audit.view import LogView
from hsmd.errors import AuditFailure, NotFound
from hsmd.system.log_files import SEGMENTS, Read, index_of, lines_from
from hsmd.transparency.records import MAX_LINE_BYTES

MAX_PAGE_BYTES = 900_000
"""Largest page as JSON strings: a control result may have 1,048,576 bytes (docs/protocol.md, section 1)."""
_CHUNK_BYTES = 16_384


def offset_of(file: LogView, index: int, end: int) -> int:
    """The offset of record `index` within the first `end` bytes.

    Raises NotFound if it was archived, AuditFailure if it is missing.
    """
    if index < file.first:
        where = archived_to(file.path.parent / SEGMENTS, index)
        raise NotFound(f"record {index} was archived{where}; the live log begins with record {file.first}")
    start = find(file.read, index, end, file.path)
    if start is None:
        raise _missing(index, file.path)
    return start


def find(read: Read, index: int, end: int, path: Path) -> int | None:
    """The offset of record `index` within the first `end` bytes of a file, which is not empty; `path` is for messages.

    None if all records of the file are older. Raises AuditFailure if it is missing between them.
    """
    low, high = 0, end
    while high - low > _CHUNK_BYTES:
        start = _next_start(read, (low + high) // 2, high)
        if start is None:
            high = (low + high) // 2
        elif _index_of(read(start, 32), start) <= index:
            low = start
        else:
            high = start
    for start, line in lines_from(read, low, end):
        found = _index_of(line, start)
        if found == index:
            return start
        if found > index:
            raise _missing(index, path)
    return None


def _missing(index: int, path: Path) -> AuditFailure:
    return AuditFailure(detail=f"record {index} is missing in {path}; run `hsmd audit verify`")


def page(file: LogView, offset: int, limit: int, end: int) -> list[str]:
    """At most `limit` lines from `offset` on, as many as fit into a page."""
    lines: list[str] = []
    left = MAX_PAGE_BYTES
    for _, line in lines_from(file.read, offset, end):
        left -= json_bytes(line)
        if len(lines) == limit or (left < 0 and lines):
            break
        lines.append(text_of(line))
    return lines


def text_of(line: bytes) -> str:
    """A line as text, without its line feed; bytes that no record holds are escaped."""
    return line.removesuffix(b"\n").decode("ascii", "backslashreplace")


def json_bytes(line: bytes) -> int:
    """The bytes that a line takes as a JSON string in a list: its quotes and backslashes are escaped."""
    return len(line) + line.count(b'"') + line.count(b"\\") + 3


def _next_start(read: Read, offset: int, end: int) -> int | None:
    """The first start of a line after `offset` and before `end`."""
    window = read(offset, min(MAX_LINE_BYTES + 1, end - offset))
    line_feed = window.find(b"\n")
    start = offset + line_feed + 1
    return None if line_feed < 0 or start >= end else start


def _index_of(line: bytes, start: int) -> int:
    index = index_of(line)
    if index is None:
        raise AuditFailure(detail=f"no record at byte {start}; run `hsmd audit verify`")
    return index
