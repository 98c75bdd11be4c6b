"""The files of an audit log and their lines: sealed segments and the live file, also while a daemon writes them."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from hsmd.transparency.records import MAX_LINE_BYTES

LIVE_NAME = "audit.jsonl"
SEGMENTS = "segments"
"""The directory of sealed segments in a log's directory."""
ARCHIVED_NAME = "archived.json"
"""The list of archived segments, in the directory of sealed segments."""
_UNFINISHED_S = 1.0
"""How long a daemon may take to finish the line it is writing."""
_PAUSE_S = 0.01
_CHUNK_BYTES = 1 << 20
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
"""A named pipe in place of a log is not waited for: it has no lines."""
_INDEX = re.compile(rb'\{"index":([0-9]{1,19}),')
_SEGMENT = re.compile(r"([0-9]{12,19})\.jsonl\Z")

Read = Callable[[int, int], bytes]
"""`read(offset, length)`: fewer bytes than `length` only at the end."""


# --- files ---


class Segment(NamedTuple):
    """A sealed segment: the index of its first record, and its size."""

    first: int
    size_bytes: int

    @property
    def name(self) -> str:
        """The name of its file."""
        return segment_name(self.first)


def segment_name(first: int) -> str:
    """The file name of the segment that begins with record `first`: names sort as indices do."""
    return f"{first:012}.jsonl"


class SegmentDirectory:
    """The directory of sealed segments, used through a descriptor, so that a parent directory may be renamed."""

    def __init__(self, path: Path, log_directory_fd: int | None = None, *, links: bool = False) -> None:
        """`path` is the log's directory, and used unless its descriptor is given; `links`: follow symbolic links.

        Raises OSError.
        """
        self.path = path / SEGMENTS
        self._flags = os.O_RDONLY | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW)
        name = self.path if log_directory_fd is None else SEGMENTS
        self.fd = os.open(name, self._flags | os.O_DIRECTORY, dir_fd=log_directory_fd)

    def list(self, live_fd: int | None = None) -> list[Segment]:
        """The segments that are present, oldest first, without the one that is open as `live_fd`.

        A reader opens the live file before it lists the segments: if the daemon seals that file in between, it is in the
        directory, and still read as the live file that it was.
        """
        live = None if live_fd is None else os.fstat(live_fd)
        found = []
        for name in os.listdir(self.fd):
            if (match := _SEGMENT.match(name)) and name == segment_name(int(match[1])):
                with contextlib.suppress(FileNotFoundError):  # archived and removed meanwhile
                    status = os.stat(name, dir_fd=self.fd)
                    if live is None or not os.path.samestat(status, live):
                        found.append(Segment(int(match[1]), status.st_size))
        return sorted(found)

    def open(self, segment: Segment) -> int:
        """A descriptor for reading a segment; the caller closes it. Raises OSError."""
        return os.open(segment.name, self._flags | os.O_NONBLOCK, dir_fd=self.fd)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)

    def __enter__(self) -> SegmentDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# --- lines ---


def index_of(line: bytes) -> int | None:
    """The index of the record that begins with these bytes (at least 32, or the whole line), None if it is no record."""
    match = _INDEX.match(line)
    return int(match[1]) if match else None


def reader(fd: int) -> Read:
    """Reads of an open file at given offsets."""
    return lambda offset, length: os.pread(fd, length, offset)


def lines_from(read: Read, offset: int, end: int) -> Iterator[tuple[int, bytes]]:
    """(offset, line with its line feed) from the start of a line at `offset` on, up to `end`.

    An unfinished or overlong rest comes last, without line feed and cut to `MAX_LINE_BYTES` + 1 bytes.
    """
    rest, at = b"", offset
    while chunk := read(at + len(rest), min(_CHUNK_BYTES, end - at - len(rest))):
        lines = BytesIO(rest + chunk)
        rest = b""
        for line in lines:
            if not line.endswith(b"\n"):
                rest = line
                break
            yield at, line
            at += len(line)
        if len(rest) > MAX_LINE_BYTES:
            break
    if rest:
        yield at, rest[: MAX_LINE_BYTES + 1]


def log_lines(path: Path, *, clock: Callable[[], float] = time.monotonic) -> Iterator[bytes]:
    """The lines of a log (a file, or a directory with segments), each with its line feed.

    The last line has no line feed if it was never finished; an overlong line is cut and the last of its file. A directory
    with segments may lack the live file: a daemon that was stopped while it sealed that leaves none. Raises OSError.
    """
    with contextlib.ExitStack() as opened:
        for fd in _opened(path, opened):
            yield from _lines(fd, clock)


def ends_in_zeros(path: Path, offset: int) -> bool:
    """Whether a log has only zero bytes from `offset` on, counted over its files in their order. Raises OSError."""
    with contextlib.ExitStack() as opened:
        for fd in _opened(path, opened):
            size = os.fstat(fd).st_size
            if not _is_zero(fd, min(offset, size), size):
                return False
            offset = max(0, offset - size)
    return True


def _is_zero(fd: int, at: int, end: int) -> bool:
    """Whether a file has only zero bytes from `at` to `end`. Holes of sparse files are not read."""
    while at < end:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the end
                return True
            raise
        chunk = os.pread(fd, min(_CHUNK_BYTES, end - at), at) if at < end else b""
        if chunk.count(0) != len(chunk):
            return False
        if not chunk:  # the file has become shorter
            return True
        at += len(chunk)
    return True


def _opened(path: Path, opened: contextlib.ExitStack) -> list[int]:
    """Descriptors of the log's files in their order."""

    def kept(fd: int) -> int:
        opened.callback(os.close, fd)
        return fd

    if not path.is_dir():
        return [kept(os.open(path, _READ))]
    live: list[int] = []
    with contextlib.suppress(FileNotFoundError):
        live = [kept(os.open(path / LIVE_NAME, _READ))]
    sealed: list[int] = []
    try:
        directory = opened.enter_context(SegmentDirectory(path, links=True))
    except FileNotFoundError:
        pass
    else:
        sealed = [kept(directory.open(segment)) for segment in directory.list(live[0] if live else None)]
    if not (sealed or live):
        raise FileNotFoundError(errno.ENOENT, "neither audit.jsonl nor segments", str(path))
    return sealed + live


def _lines(fd: int, clock: Callable[[], float]) -> Iterator[bytes]:
    end = os.fstat(fd).st_size  # what is written from now on is not part of this reading
    for at, line in lines_from(reader(fd), 0, end):
        yield line if line.endswith(b"\n") else _finished(fd, at, line, clock)


def _finished(fd: int, at: int, line: bytes, clock: Callable[[], float]) -> bytes:
    ends = clock() + _UNFINISHED_S
    while len(line) <= MAX_LINE_BYTES and not line.endswith(b"\n") and clock() < ends:
        more, line_feed, _ = os.pread(fd, MAX_LINE_BYTES + 1 - len(line), at + len(line)).partition(b"\n")
        line += more + line_feed
        if not (more or line_feed):
            time.sleep(_PAUSE_S)
    return line
