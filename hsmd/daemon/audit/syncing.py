"""The thread that brings written records onto the disk, several commits at a time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from hsmd.daemon.audit.disk import LogFile
from hsmd.errors import AuditFailure, ProtocolError
from hsmd.transparency.chain import Follower
from hsmd.transparency.lines import Head
from hsmd.transparency.records import MAX_LINE_BYTES

INTERVAL_S = 0.05
"""Pause between two syncs that nobody waits for."""
STALL_S = 2.0
"""A sync that takes longer stops all writing: what is not on disk must not pile up."""
_CHUNK_BYTES = 1 << 20


class Mark(NamedTuple):
    """A place between two records: bytes before it, and the chain's head there."""

    size_bytes: int
    head: Head


class Syncer:
    """Syncs up to the last wanted mark. After a failed sync it never trusts a later one alone.

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
    def stalled(self) -> bool:
        """Whether the sync under way takes longer than `STALL_S`."""
        since = self._busy_since
        return since is not None and self._monotonic() - since > STALL_S

    def want(self, mark: Mark) -> None:
        """Have everything before `mark` synced soon; after a failure, have the repair tried again."""
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
            raise AuditFailure(detail=f"the disk did not take the records within {timeout_s:g} s") from None

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
        """A syncer that goes on after this one was closed: with its fault, and with those who wait."""
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

    with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits
        waiter.get_loop().call_soon_threadsafe(settle)


def rewrite(file: LogFile, start: Mark, end: Mark) -> None:
    """Check the records between two marks and write them again in place.

    Raises ProtocolError if they are not ours.
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
        raise ProtocolError(f"no end of a record within {min(len(chunk), MAX_LINE_BYTES)} bytes")
    return whole
