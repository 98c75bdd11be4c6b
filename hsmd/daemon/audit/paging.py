"""Finds records by index, with a binary search over the file: each record begins with its index."""

from __future__ import annotations

from hsmd.daemon.audit.archive_list import archived_to
from hsmd.daemon.audit.view import LogView
from hsmd.errors import AuditFailure, NotFound
from hsmd.system.log_files import SEGMENTS, index_of, lines_from
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
    low, high = 0, end
    while high - low > _CHUNK_BYTES:
        start = _next_start(file, (low + high) // 2, high)
        if start is None:
            high = (low + high) // 2
        elif _index_at(file, start) <= index:
            low = start
        else:
            high = start
    for start, line in lines_from(file.read, low, end):
        found = _index_of(line, start)
        if found == index:
            return start
        if found > index:
            break
    raise AuditFailure(detail=f"record {index} is missing in {file.path}; run `hsmd audit verify`")


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


def _next_start(file: LogView, offset: int, end: int) -> int | None:
    """The first start of a line after `offset` and before `end`."""
    window = file.read(offset, min(MAX_LINE_BYTES + 1, end - offset))
    line_feed = window.find(b"\n")
    start = offset + line_feed + 1
    return None if line_feed < 0 or start >= end else start


def _index_at(file: LogView, start: int) -> int:
    return _index_of(file.read(start, 32), start)


def _index_of(line: bytes, start: int) -> int:
    index = index_of(line)
    if index is None:
        raise AuditFailure(detail=f"no record at byte {start}; run `hsmd audit verify`")
    return index
