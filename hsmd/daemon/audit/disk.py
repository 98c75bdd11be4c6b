"""The log on disk: its locked file, the few operations on it that can fail, and the thread that syncs what was written."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from hsmd.daemon.audit.view import LogView
from hsmd.errors import AuditFailure, ProtocolError
from hsmd.system.log_files import LIVE_NAME, SEGMENTS, SegmentDirectory, segment_name
from hsmd.transparency.chain import Follower
from hsmd.transparency.lines import Head
from hsmd.transparency.records import MAX_LINE_BYTES

INTERVAL_S = 0.05
"""Pause between two syncs unless a caller waits for one."""
STALL_S = 2.0
"""A sync that takes longer stops all writing, so that records not on disk do not accumulate."""
_CHUNK_BYTES = 1 << 20


class Mark(NamedTuple):
    """A position between two records: bytes before it, and the chain's head there."""

    size_bytes: int
    head: Head


class Disk:
    """The system calls that change the file; tests replace them with failing ones."""

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """write(2): the number of bytes taken."""
        return os.write(fd, data)

    def truncate(self, fd: int, size: int) -> None:
        """ftruncate(2)."""
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        """fdatasync(2)."""
        os.fdatasync(fd)

    def reached(self, point: str) -> None:
        """A named point in the sealing of a segment has been reached."""


class LogFile:
    """The open file. `path` is for messages: all access is through descriptors, so a parent directory may be renamed.

    Raises OSError for failed system calls and AuditFailure for a file that was replaced or changed.
    """

    def __init__(self, directory: Path, disk: Disk) -> None:
        """Create directory (0700) and file (0600) if necessary, and take the lock.

        Raises AuditFailure if another process holds it or other users may write to the directory.
        """
        self.path = directory / LIVE_NAME
        self._disk = disk
        self._directory_fd = _open_directory(directory)
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(SEGMENTS, 0o700, dir_fd=self._directory_fd)
            self.segments = SegmentDirectory(directory, self._directory_fd)
            self._fd = self._open(os.O_RDWR | os.O_APPEND | os.O_CREAT)
        except BaseException:
            os.close(self._directory_fd)
            raise
        self._identity = _identity(os.fstat(self._fd))
        os.fsync(self._directory_fd)

    @property
    def size(self) -> int:
        """Current size of the file in bytes."""
        return os.fstat(self._fd).st_size

    def append(self, data: bytes) -> None:
        """Write all of `data` at the end; after an OSError a part of it may have been written."""
        written = self._disk.write(self._fd, data)
        while written < len(data):
            more = self._disk.write(self._fd, memoryview(data)[written:])
            if more == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written += more

    def truncate(self, size: int) -> None:
        """Cut the file off after `size` bytes."""
        self._disk.truncate(self._fd, size)

    def sync(self) -> None:
        """Return when everything written is on disk."""
        self._disk.sync(self._fd)

    def view(self, size: int) -> LogView:
        """The segments and the first `size` bytes of this file; the caller closes it."""
        return LogView(self.path, self.segments, self.segments.list(), self._fd, size)

    def free_bytes(self) -> int:
        """Free space on the file system for users other than root."""
        status = os.fstatvfs(self._directory_fd)
        return status.f_bavail * status.f_frsize

    def seal(self, first: int) -> None:
        """Move the synced file, whose first record is `first`, to the segments, and begin a new one.

        A crash at any point leaves either the file at its name or none, and the next start then creates a new one. Raises
        OSError; then nothing has changed.
        """
        name = segment_name(first)
        if name in os.listdir(self.segments.fd):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        self._disk.reached("synced")
        os.rename(self.path.name, name, src_dir_fd=self._directory_fd, dst_dir_fd=self.segments.fd)
        self._disk.reached("renamed")
        try:
            os.fsync(self.segments.fd)
            fd = self._begun()
        except OSError:  # the old file replaces the new one, if there is one
            os.rename(name, self.path.name, src_dir_fd=self.segments.fd, dst_dir_fd=self._directory_fd)
            raise
        os.close(self._fd)
        self._fd = fd
        self._identity = _identity(os.fstat(fd))
        self._disk.reached("sealed")

    def _begun(self) -> int:
        """A descriptor of a new file whose directory entry is on disk."""
        fd = self._open(os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL)
        self._disk.reached("begun")
        try:
            os.fsync(self._directory_fd)
        except OSError:
            os.close(fd)
            raise
        return fd

    def check(self, size: int) -> None:
        """Raise AuditFailure unless the file still has a name and exactly `size` bytes."""
        found = os.fstat(self._fd)
        if found.st_nlink == 0:
            raise AuditFailure(
                detail=f"{self.path} was removed while in use; {_RESCUE.format(pid=os.getpid(), fd=self._fd)}"
            )
        if found.st_size != size:
            raise AuditFailure(
                detail=f"{self.path} has {found.st_size} bytes instead of {size}: another process changed it; "
                "stop the daemon, run `hsmd audit verify` and keep the file as evidence"
            )

    def check_name(self) -> None:
        """Raise AuditFailure unless the file's name in the directory still refers to this file."""
        try:
            named = os.stat(self.path.name, dir_fd=self._directory_fd, follow_symlinks=False)
        except FileNotFoundError:
            raise AuditFailure(
                detail=f"{self.path} was renamed while in use; move it back (do not rotate it)"
            ) from None
        if _identity(named) != self._identity:
            raise AuditFailure(
                detail=f"{self.path} was replaced while in use; {_RESCUE.format(pid=os.getpid(), fd=self._fd)}"
            )

    def reopened(self) -> int:
        """A second descriptor for reading and writing in place, which O_APPEND does not allow; the caller closes it."""
        fd = self._open(os.O_RDWR)
        if _identity(os.fstat(fd)) == self._identity:
            return fd
        os.close(fd)
        raise AuditFailure(detail=f"{self.path} was replaced while in use")

    def rewrite(self, fd: int, offset: int, data: bytes) -> None:
        """Write `data` at `offset` through a descriptor of `reopened`."""
        if os.pwrite(fd, data, offset) != len(data):
            raise OSError(f"{self.path}: short write")

    def sync_descriptor(self, fd: int) -> None:
        """As `sync`, through a descriptor of `reopened`."""
        self._disk.sync(fd)

    def close(self) -> None:
        """Close the file and release the lock."""
        os.close(self._fd)
        self.segments.close()
        os.close(self._directory_fd)

    def _open(self, flags: int) -> int:
        fd = os.open(self.path.name, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=self._directory_fd)
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        raise AuditFailure(f"{self.path} is not a regular file; move it away")


_RESCUE = "its records can be saved from /proc/{pid}/fd/{fd}: copy them, stop the daemon, put the copy in its place, start it"


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _open_directory(directory: Path) -> int:
    """A locked descriptor of the directory; the lock is on the directory because the file may be replaced while in use."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_mode & 0o022:
            raise AuditFailure(f"{directory} is writable for other users; run `chmod go-w {directory}`")
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise AuditFailure(
            f"{directory} is in use by another hsmd; each daemon needs an audit directory of its own"
        ) from None
    except BaseException:
        os.close(fd)
        raise
    return fd


# --- syncing ---


class Syncer:
    """Syncs up to the last wanted mark, several commits at a time; after a failed sync it never relies on a later one.

    Linux marks pages clean when writing them back fails, so that the next fdatasync succeeds without them.
    Therefore, after a failure, the records since the last good sync are read through a new descriptor,
    checked against the chain, written again in place and synced; `fault` stays set until that has worked.
    """

    def __init__(self, file: LogFile, start: Mark, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._monotonic = monotonic
        self._wanted = start
        self._durable = start
        self.fault = ""
        self._busy_since: float | None = None
        self._dirty = threading.Event()
        self._hurry = threading.Event()
        self._closing = False
        self._lock = threading.Lock()
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._thread = threading.Thread(target=self._run, name="audit-sync", daemon=True)
        self._thread.start()

    @property
    def durable_size(self) -> int:
        """Number of records that are on disk; those since the last good sync do not count."""
        return self._durable.head.size

    @property
    def stalled(self) -> bool:
        """Whether the sync under way takes longer than `STALL_S`."""
        since = self._busy_since
        return since is not None and self._monotonic() - since > STALL_S

    def want(self, mark: Mark) -> None:
        """Have everything before `mark` synced soon; after a failure, have the repair repeated."""
        self._wanted = mark
        if not self._dirty.is_set():
            self._dirty.set()

    async def reach(self, mark: Mark, timeout_s: float) -> None:
        """Return when everything before `mark` is on disk.

        Raises AuditFailure if that fails or takes too long.
        """
        reached = asyncio.get_running_loop().create_future()
        with self._lock:
            if self._durable.size_bytes >= mark.size_bytes and not self.fault:
                return
            self._waiters.append((mark.size_bytes, reached))
        self.want(max(mark, self._wanted))
        self._hurry.set()
        try:
            await asyncio.wait_for(reached, timeout_s)
        except TimeoutError:
            raise AuditFailure(detail=f"the records were not on disk within {timeout_s:g} s") from None

    def close(self) -> bool:
        """Sync what is wanted and end the thread.

        False if it hangs in a sync, so that the file must stay open.
        """
        self._closing = True
        self._hurry.set()
        self._dirty.set()
        self._thread.join(timeout=STALL_S)
        return not self._thread.is_alive()

    def restarted(self) -> Syncer:
        """A successor of this closed syncer, with its fault and its waiters."""
        successor = Syncer(self._file, self._durable, self._monotonic)
        with self._lock:
            successor._waiters, self._waiters = self._waiters, []
        successor.fault = self.fault
        successor.want(self._wanted)
        return successor

    def _run(self) -> None:
        while not self._closing:
            self._dirty.wait()
            self._dirty.clear()
            self._sync_once()
            self._hurry.wait(INTERVAL_S)
            self._hurry.clear()
        self._sync_once()

    def _sync_once(self) -> None:
        target = self._wanted
        self._busy_since = self._monotonic()
        try:
            if self.fault:
                rewrite(self._file, self._durable, target)
            else:
                self._file.sync()
        except (OSError, AuditFailure, ProtocolError) as problem:
            self._failed(problem)
        else:
            self._succeeded(target)
        finally:
            self._busy_since = None

    def _failed(self, problem: Exception) -> None:
        self.fault = f"syncing {self._file.path} failed: {getattr(problem, 'detail', '') or problem}"
        with self._lock:
            waiters, self._waiters = self._waiters, []
        for _, waiter in waiters:
            _settle(waiter, AuditFailure(detail=self.fault))

    def _succeeded(self, target: Mark) -> None:
        with self._lock:
            self._durable = target
            self.fault = ""
            reached = [waiter for size, waiter in self._waiters if size <= target.size_bytes]
            self._waiters = [entry for entry in self._waiters if entry[0] > target.size_bytes]
        for waiter in reached:
            _settle(waiter, None)


def _settle(waiter: asyncio.Future[None], problem: Exception | None) -> None:
    def settle() -> None:
        if waiter.done():
            return
        waiter.set_result(None) if problem is None else waiter.set_exception(problem)

    with contextlib.suppress(RuntimeError):  # the loop is closed, so there is no waiter
        waiter.get_loop().call_soon_threadsafe(settle)


def rewrite(file: LogFile, start: Mark, end: Mark) -> None:
    """Check the records between two marks and write them again in place.

    Raises ProtocolError if they are not those that were written.
    """
    fd = file.reopened()
    try:
        chain = Follower(start.head)
        at = start.size_bytes
        while at < end.size_bytes:
            whole = _whole_lines(os.pread(fd, min(_CHUNK_BYTES, end.size_bytes - at), at))
            for line in whole.splitlines():
                chain.follow(line)
            file.rewrite(fd, at, whole)
            at += len(whole)
        if chain.position != end.head:
            raise ProtocolError("the records on disk are not those that were written")
        file.sync_descriptor(fd)
    finally:
        os.close(fd)


def _whole_lines(chunk: bytes) -> bytes:
    whole = chunk[: chunk.rfind(b"\n") + 1]
    if not whole:
        raise ProtocolError(f"no line feed within {min(len(chunk), MAX_LINE_BYTES)} bytes")
    return whole
