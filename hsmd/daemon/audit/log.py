"""The audit log of one daemon: it numbers, chains and writes records, and shows those that are written.

Records are noted in memory and written by `commit` in one write(2). Nothing noted counts before its commit has
returned. When a commit fails, the file is cut back to the last good record and the log reports it (`writable`, `fault`);
every later commit tries again, so the log recovers by itself (docs/audit.md, section 3).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Literal

from hsmd.daemon.audit.disk import Disk, LogFile, Mark, Syncer
from hsmd.daemon.audit.paging import offset_of, page
from hsmd.daemon.audit.recovery import MARK_EVERY, Tail, examine
from hsmd.daemon.audit.refusals import REFUSALS_EVENT, RefusalMeter
from hsmd.daemon.audit.tree import LogTree
from hsmd.daemon.audit.view import LogView
from hsmd.errors import AuditFailure, InternalFault, ProtocolError
from hsmd.transparency.lines import (
    Head,
    attempt_stem,
    attempt_tail,
    event_tail,
    extend,
    format_time,
    outcome_tail,
    parse_tail,
    refusal_tail,
)
from hsmd.transparency.records import MARK_EVENT, RESULTS

MAX_NOTED = 100_000
"""Records noted and not committed; more is an error of the caller."""
DURABLE_TIMEOUT_S = 10.0
_NAME_CHECK_S = 0.25
_MAX_STEMS = 10_000
_REFUSALS_TAIL = f',"event":"{REFUSALS_EVENT}",'
COUNTED = -1
"""Returned by `refusal` for a refusal that was counted, not noted."""

Clock = Callable[[], datetime]


utc_now: Clock = partial(datetime.now, UTC)
"""The current time, aware; a partial, because each commit calls it."""


class AuditLog:
    """A log with one writer, on one event loop; not thread-safe."""

    @classmethod
    def open(
        cls,
        directory: Path | str,
        *,
        clock: Clock = utc_now,
        sync: Literal["group", "always"] = "group",
        monotonic: Callable[[], float] = time.monotonic,
        disk: Disk | None = None,
        segment_bytes: int = 256 << 20,
    ) -> AuditLog:
        """Open or create the log in `directory`, cut off a torn end, and close attempts left open as `unknown`.

        Raises AuditFailure, whose text is for the operator, if another daemon uses the log or it was changed.
        """
        try:
            file = LogFile(Path(directory), disk or Disk())
        except OSError as problem:
            raise AuditFailure(f"the audit log in {directory} cannot be opened: {problem}") from problem
        try:
            with file.view(file.size) as view:
                tail = examine(view)
            if tail.torn_bytes:
                file.truncate(tail.mark.size_bytes)
            file.sync()
        except OSError as problem:
            file.close()
            raise AuditFailure(
                f"the audit log in {directory} cannot be read or repaired: {problem}"
            ) from problem
        except BaseException:
            file.close()
            raise
        log = cls(file, tail, clock, monotonic, strict=sync == "always")
        log._segment_bytes = segment_bytes
        return log

    def __init__(
        self, file: LogFile, tail: Tail, clock: Clock, monotonic: Callable[[], float], *, strict: bool
    ) -> None:
        self._file = file
        self._clock = clock
        self._monotonic = monotonic
        self._strict = strict
        self._mark = tail.mark
        self._sealing = threading.Lock()
        """Held while the live file is replaced, so that no thread sees the new file with the size of the old one."""
        self._segment_bytes = 0
        self._open = tail.open_attempts
        self._next_log_mark = tail.last_mark + MARK_EVERY
        self._noted: list[str] = []
        self._dropped = 0
        self.rollbacks = 0
        """How often what was noted has been discarded: an index from before may be that of another record now."""
        self._overhang = False
        self._name_check_at = 0.0
        self._stems: dict[tuple[str, str, str, bytes, str, int], str] = {}
        self._refusals = RefusalMeter()
        self._reporting: dict[str, int] = {}
        self._syncer = Syncer(file, tail.mark, monotonic)
        self.fault = ""
        self.closed = False
        self._repair(tail)

    def _repair(self, tail: Tail) -> None:
        """Record what the last run left unfinished. With a full disk the daemon still starts, but uses no keys."""
        if tail.torn_bytes:
            self.event("log.torn", "", bytes=tail.torn_bytes, sha256=tail.torn_digest)
        for attempt in sorted(self._open):
            self.outcome(attempt, "unknown", None, "the daemon ended before the outcome was known")
        with contextlib.suppress(AuditFailure):
            self.commit()

    # --- noting ---

    def attempt(
        self, client: str, credential: str, key_name: str, key: bytes, purpose: str, scheme: int, asked: bytes
    ) -> int:
        """Note an attempt to use a key; return its index.

        `key` is the key's digest, `scheme` a TLS SignatureScheme (0 for decryption), `asked` the data, of which only the
        SHA-256 is recorded.
        """
        grant = (client, credential, key_name, key, purpose, scheme)
        stem = self._stems.get(grant)
        if stem is None:
            if len(self._stems) >= _MAX_STEMS:
                self._stems.clear()
            stem = self._stems[grant] = _made("attempt", lambda: attempt_stem(*grant))
        index = self._note(attempt_tail(stem, sha256(asked).hexdigest()))
        self._open.add(index)
        return index

    def outcome(self, attempt: int, result: str, answer: bytes | None, error: str = "") -> int:
        """Note the outcome of an attempt, which has only one; return the outcome's index.

        `result` is one of `records.RESULTS`; `answer` the bytes returned (only their SHA-256 is recorded). Raises
        InternalFault for an attempt that is not open.
        """
        if attempt not in self._open or result not in RESULTS:
            raise InternalFault(detail=f"audit: outcome {result!r} for attempt {attempt}, which is not open")
        digest = "" if answer is None else sha256(answer).hexdigest()
        index = self._note(outcome_tail(attempt, result, digest, error))
        self._open.discard(attempt)
        return index

    def refusal(
        self, client: str, credential: str, key: bytes, purpose: str, scheme: int, asked: bytes, rule: str
    ) -> int:
        """Note a refused use of a key, attempt and outcome in one; return its index, or `COUNTED` beyond the client's rate."""
        if not self._refusals.admit(client, self._monotonic()):
            return COUNTED
        digest = sha256(asked).hexdigest()
        tail = _made("refusal", lambda: refusal_tail(client, credential, key, purpose, scheme, digest, rule))
        return self._note(tail)

    def event(self, name: str, client: str, /, **fields: str | int) -> int:
        """Note a named event (`daemon.started`), caused by `client` unless that is empty; return its index.

        Raises InternalFault for names of events or fields that a record cannot have, or more than 16 fields.
        """
        return self._note(_made(name, lambda: event_tail(name, client, fields)))

    def _note(self, tail: str) -> int:
        noted = self._noted
        if len(noted) >= MAX_NOTED:
            raise AuditFailure(detail=f"{MAX_NOTED} records noted without a commit")
        noted.append(tail)
        return self._mark.head.size + len(noted) - 1

    # --- writing ---

    def commit(self) -> None:
        """Write what was noted, in one write(2); with `sync="always"` return only when it is on disk.

        Raises AuditFailure if that fails: then nothing noted has happened, its indices are assigned again, and the caller
        must not act on it. Only outcomes of written attempts are kept, and written when the log recovers. With nothing
        noted, a commit on a log that is not `writable` tries to recover: call it regularly.
        """
        if not (self._noted or self._refusals.counted) and self.writable:
            return
        try:
            self._require_sound_file()
            if self._refusals.counted:
                self._add_counted_refusals(self._monotonic())
            tails = self._noted + self._own_tails()
            mark = self._write(*extend(self._mark.head, format_time(self._clock()), tails))
        except AuditFailure as failure:
            self._roll_back(failure.detail)
            raise
        self._accept(mark)

    async def commit_durable(self) -> None:
        """As `commit`, and return when everything is on disk.

        Raises AuditFailure if that fails or takes over 10 s.
        """
        self.commit()
        if not self._strict:
            await self._syncer.reach(self._mark, DURABLE_TIMEOUT_S)

    def _require_sound_file(self) -> None:
        """Raises AuditFailure unless what was written so far is in place and syncing works."""
        if self._syncer.fault:
            self._syncer.want(self._mark)
            raise AuditFailure(detail=self._syncer.fault)
        if self._syncer.stalled:
            raise AuditFailure(detail=f"syncing {self._file.path} takes too long; check the disk")
        try:
            if self._overhang:
                self._cut_overhang()
            self._file.check(self._mark.size_bytes)
            now = self._monotonic()
            if now >= self._name_check_at or self.fault:
                self._file.check_name()
                self._name_check_at = now + _NAME_CHECK_S
        except OSError as problem:
            raise AuditFailure(detail=f"{self._file.path}: {problem}") from problem

    def _add_counted_refusals(self, now: float) -> None:
        due = self._refusals.due(now)
        self._reporting |= due
        for client, count in due.items():
            self.event(REFUSALS_EVENT, client, count=count)

    def _own_tails(self) -> list[str]:
        """The log's records about itself, which follow the noted ones in this commit."""
        tails: list[str] = []
        if self._dropped:
            tails.append(event_tail("log.recovered", "", {"dropped": self._dropped}))
        index = self._mark.head.size + len(self._noted) + len(tails)
        if index >= self._next_log_mark:
            tails.append(event_tail(MARK_EVENT, "", {"oldest_open": min(self._open, default=index)}))
        return tails

    def _write(self, data: bytes, head: Head) -> Mark:
        mark = Mark(self._mark.size_bytes + len(data), head)
        try:
            self._overhang = bool(data)
            self._file.append(data)
            if self._strict:
                self._file.sync()
            else:
                self._syncer.want(mark)
            self._overhang = False
        except OSError as problem:
            raise AuditFailure(detail=f"writing {self._file.path} failed: {problem}") from problem
        return mark

    def _cut_overhang(self) -> None:
        """Remove what a failed write left after the last good record."""
        self._file.truncate(self._mark.size_bytes)
        self._overhang = False

    def _accept(self, mark: Mark) -> None:
        self._mark = mark
        self._noted = []
        self._reporting = {}
        self.fault = ""
        self._dropped = 0
        if mark.head.size > self._next_log_mark:
            self._next_log_mark = mark.head.size + MARK_EVERY

    def _roll_back(self, fault: str) -> None:
        """Discard what was noted, except for what has happened and must still be recorded."""
        self.rollbacks += 1
        size = self._mark.head.size
        self._refusals.take_back(self._reporting)  # one sum, however long the log is unwritable
        self._reporting = {}
        noted = [tail for tail in self._noted if not tail.startswith(_REFUSALS_TAIL)]
        kept = [tail for tail in noted if _outlives_failure(tail, size)]
        self._dropped += len(noted) - len(kept)
        self._noted = kept[:MAX_NOTED]
        self._open = {attempt for attempt in self._open if attempt < size}
        self.fault = fault
        if self._overhang:
            with contextlib.suppress(OSError):
                self._cut_overhang()

    # --- reading ---

    @property
    def size(self) -> int:
        """Number of committed records."""
        return self._mark.head.size

    @property
    def durable_size(self) -> int:
        """Number of records that are known to be on disk."""
        return self.size if self._strict else self._syncer.durable_size

    @property
    def head(self) -> str:
        """Leaf hash of the last committed record, in hex; zeros for an empty log."""
        return self._mark.head.head

    def tree(self) -> LogTree:
        """The tree of this log, in files beside it. Raises AuditFailure if they cannot be read or written."""
        try:
            return LogTree(self._file.path.parent / "tree", self.view, lambda: self._mark.head)
        except OSError as problem:
            raise AuditFailure(f"the tree of {self._file.path} cannot be opened: {problem}") from problem

    @property
    def writable(self) -> bool:
        """Whether the last commit succeeded and syncing works; if not, `fault` is the reason, for the operator."""
        return not (self.fault or self._syncer.fault)

    @property
    def open_attempts(self) -> int:
        """Number of attempts without an outcome so far."""
        return len(self._open)

    def position(self, first: int) -> int:
        """The index that `first` stands for now: a negative one counts from the end."""
        return max(0, first + self.size) if first < 0 else first

    def read(self, first: int, limit: int) -> list[str]:
        """At most `limit` committed records from `first` on, as they are on disk, at most 900 KB as JSON strings.

        A negative `first` counts from the end. Raises AuditFailure if a file cannot be read or was changed, NotFound for
        records that were archived.
        """
        index = self.position(first)
        if index >= self.size or limit < 1:
            return []
        try:
            with self.view() as view:
                return page(view, offset_of(view, index, view.size), limit, view.size)
        except OSError as problem:
            raise AuditFailure(detail=f"reading {self._file.path} failed: {problem}") from problem

    def view(self) -> LogView:
        """All committed records that are present; for any thread, which closes it."""
        with self._sealing:
            return self._file.view(self._mark.size_bytes)

    @property
    def position_now(self) -> Head:
        """Size and head, for readers of a view in a thread."""
        return self._mark.head

    @property
    def free_bytes(self) -> int:
        """Free space on the log's file system, in bytes."""
        return self._file.free_bytes()

    # --- segments ---

    @property
    def seal_due(self) -> bool:
        """Whether the live file has the size at which it is sealed."""
        return self._mark.size_bytes >= self._segment_bytes

    async def seal(self) -> int:
        """Move the live file to the sealed segments and continue in a new one; return the index of its first record.

        Raises AuditFailure if that fails; then the log continues in the file it has.
        """
        if not self._mark.size_bytes:
            return self.size
        await self.commit_durable()  # so that little is left to sync below
        self.commit()
        self._require_sound_file()
        if not self._syncer.close() or self._syncer.fault:
            self._syncer = self._syncer.restarted()
            raise AuditFailure(f"{self._file.path} cannot be sealed: its records are not on disk")
        try:
            self._file.sync()
            with self.view() as view:
                first = view.first_live
            with self._sealing:
                self._file.seal(first)
                self._mark = Mark(0, self._mark.head)
        except OSError as problem:
            self._syncer = self._syncer.restarted()
            raise AuditFailure(f"{self._file.path} cannot be sealed: {problem}") from problem
        self._syncer = Syncer(self._file, self._mark, self._monotonic)
        first_behind = self.size
        self._next_log_mark = 0  # a mark allows segments without open attempts to be archived
        self.event("log.segment", "", first=self.size)
        self.commit()
        return first_behind

    async def close(self) -> None:
        """Write and sync what is left, and release the lock. Raises AuditFailure if records could not be written."""
        self.closed = True
        try:
            self._add_counted_refusals(math.inf)
            self.commit()
        finally:
            if await asyncio.to_thread(self._syncer.close):
                self._file.close()
        if self._syncer.fault:
            raise AuditFailure(detail=self._syncer.fault)


def _made(what: str, make: Callable[[], str]) -> str:
    """A tail; values that no record can hold are an error of the daemon, not of a client."""
    try:
        return make()
    except ProtocolError as problem:
        raise InternalFault(detail=f"audit record of {what}: {problem.text}") from None


def _outlives_failure(tail: str, size: int) -> bool:
    record = parse_tail(tail)
    if record.event == "outcome":
        return record.attempt is not None and record.attempt < size
    return record.event.startswith("log.")
