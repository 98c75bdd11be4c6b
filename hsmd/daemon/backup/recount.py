"""Recounts from audit logs how often keys of the vault were taken out, and limited grants used, for a store that is restored.

The counts in a backup are those of its time; each acquisition or use after it is in the log of the daemon that counted it, with
its number. Counts are raised to the highest numbers, and nothing lowers them: a log that is too old, that is given twice, or that
tells of an earlier key of the same name makes no use come back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from hsmd.daemon.backup.known_counts import Grant, KnownCounts, Version
from hsmd.daemon.store import Store
from hsmd.errors import BadRequest, ProtocolError
from hsmd.system.log_files import ends_in_zeros, index_of, log_lines
from hsmd.transparency.chain import Follower
from hsmd.transparency.records import (
    CHECKPOINT_EVENT,
    GRANT_USED_EVENT,
    MAX_LINE_BYTES,
    VAULT_ACQUIRED_EVENT,
    Record,
)

AT_ONCE = 1_000
"""Versions, or grants, whose counts are raised in one transaction."""

Counts = dict[int, tuple[int, int]]
"""Highest numbers by row id: of a request and of a release of a version, or 0 and the number of a use."""


class Raised(NamedTuple):
    """Of how many versions, and of how many limited grants, the counts were raised."""

    versions: int
    grants: int


@dataclass(slots=True)
class LogRead:
    """What was found in one log.

    `origin`: of its newest checkpoint, empty without one. `missing`: records that are not there, because their segments were
    archived, the last of them before record `missing_until`. `until`: the time of the last record. `not_in_backup`:
    acquisitions of versions, and uses of grants, that the backup does not have. `from_backup`: it was in the backup, and ends
    there.
    """

    path: Path
    from_backup: bool
    origin: str = ""
    records: int = 0
    missing: int = 0
    missing_until: int = 0
    until: str = ""
    acquisitions: int = 0
    grant_uses: int = 0
    not_in_backup: int = 0
    covers: set[str] = field(default_factory=set)
    """Of the logs that the backup knows, those of which nothing after the backup is missing here, as far as can be told."""

    @property
    def size(self) -> int:
        """The index behind its last record."""
        return self.records + self.missing

    @property
    def complete(self) -> bool:
        """Whether it is known to have all that its daemon recorded since the backup, up to `until`."""
        return self.origin in self.covers


class Recount:
    """Reads logs, and raises the counts of a restored store. Its memory is bounded by what the backup knows."""

    def __init__(self, known: KnownCounts) -> None:
        self.logs: list[LogRead] = []
        self._known = known
        self._versions: Counts = {}
        self._grants: Counts = {}

    @property
    def has_versions(self) -> bool:
        """Whether the backup has keys in the vault."""
        return bool(self._known.versions)

    @property
    def has_counts(self) -> bool:
        """Whether the backup has those, or limited grants."""
        return bool(self._known.versions or self._known.grants)

    @property
    def uncounted(self) -> list[str]:
        """The origins that the backup knows and that no complete log was read of."""
        return sorted(self._known.logs.keys() - {origin for log in self.logs for origin in log.covers})

    def read(self, path: Path, *, from_backup: bool = False) -> LogRead:
        """Read a log, a file or a directory with segments.

        Raises BadRequest for one that cannot be read or is no log; nothing of it counts then.
        """
        log = LogRead(path, from_backup)
        versions: Counts = {}
        grants: Counts = {}
        origins: set[str] = set()
        for record in _records(log):
            if record.event == VAULT_ACQUIRED_EVENT:
                log.acquisitions += 1
                _note(log, versions, *_acquired(log, record, self._known))
            elif record.event == GRANT_USED_EVENT:
                log.grant_uses += 1
                _note(log, grants, *_used(log, record, self._known))
            elif record.event == CHECKPOINT_EVENT:
                log.origin = str(record.fields.get("origin", ""))
                origins |= {log.origin} & self._known.logs.keys()
        _merge(self._versions, versions)
        _merge(self._grants, grants)
        if not from_backup:
            log.covers = {
                origin for origin in origins if log.missing_until <= self._known.logs[origin] <= log.size
            }
        self.logs.append(log)
        return log

    def apply(self, store: Store) -> Raised:
        """Raise the counts of the store, into which the backup was restored, and which no daemon uses yet."""
        versions = grants = 0
        for batch in _batches(self._versions):
            with store.write(versioned=False) as tx:
                versions += tx.vault_acquisitions.raise_counts([(row, *both) for row, both in batch])
        for batch in _batches(self._grants):
            with store.write(versioned=False) as tx:
                grants += tx.limited_grants.raise_counts([(row, used) for row, (_, used) in batch])
        return Raised(versions, grants)


def _batches(counts: Counts) -> Iterator[list[tuple[int, tuple[int, int]]]]:
    rows = sorted(counts.items())
    for start in range(0, len(rows), AT_ONCE):
        yield rows[start : start + AT_ONCE]


def _note(log: LogRead, counts: Counts, row: int | None, numbers: tuple[int, int]) -> None:
    if row is None:
        log.not_in_backup += 1
    else:
        _merge(counts, {row: numbers})


def _merge(counts: Counts, others: Counts) -> None:
    for row, (first, second) in others.items():
        known = counts.get(row, (0, 0))
        counts[row] = max(known[0], first), max(known[1], second)


def _records(log: LogRead) -> Iterator[Record]:
    """The records of a log, each counted there. Raises BadRequest.

    Records whose segments were archived may be missing. Those that are there have to continue the ones before. An end that a
    crash can leave, an unfinished line or zero bytes, is no record: no envelope left for it.
    """
    lines, chain, at = log_lines(log.path), Follower(), 0
    try:
        for line in lines:
            if not line.endswith(b"\n"):
                _check_torn(log, line, at, next(lines, None))
                return
            at += len(line)
            index = index_of(line)
            if index is not None and index > chain.size:
                log.missing += index - chain.size
                log.missing_until = index
                chain = Follower.entering(line[:-1])
            record = chain.follow(line[:-1])
            log.records += 1
            log.until = record.time
            yield record
    except ProtocolError as problem:
        raise _bad(log, f"line {log.records + 1}: {problem.text}") from None
    except OSError as problem:
        raise BadRequest(
            f"{problem.filename or log.path} cannot be read: {problem.strerror}; name an audit log that can be read, as file or "
            "directory, or leave it out"
        ) from None


def _check_torn(log: LogRead, line: bytes, at: int, following: bytes | None) -> None:
    """Raises BadRequest for the line without an end at offset `at` if it is not the end of the log.

    One that is too long was cut. Behind its zeros there may be records, if a copy has zeros for what could not be read.
    """
    if following is None and len(line) > MAX_LINE_BYTES and (zeros := line.find(b"\0")) >= 0:
        torn = ends_in_zeros(log.path, at + zeros)
    else:
        torn = following is None and len(line) <= MAX_LINE_BYTES
    if not torn:
        raise _bad(log, f"line {log.records + 1} has no end")


def _acquired(log: LogRead, record: Record, known: KnownCounts) -> tuple[int | None, tuple[int, int]]:
    """The row of the version, if the backup has it, and the numbers of the request and of the release, 0 if it was refused."""
    fields = record.fields
    match fields.get("owner"), fields.get("record"), fields.get("version"):
        case str(owner), str(name), int(number):
            version: Version = owner, name, number
        case _:
            raise _no_use(log, record)
    match fields.get("request"), fields.get("released", 0):
        case int(request), int(released) if request >= 1 and 0 <= released <= request:
            return known.versions.get(version), (request, released)
    raise _no_use(log, record)


def _used(log: LogRead, record: Record, known: KnownCounts) -> tuple[int | None, tuple[int, int]]:
    """The row of the grant's count, if the backup has it, and the number of the use."""
    fields = record.fields
    match fields.get("grant"), fields.get("key"), fields.get("number"):
        case int(row), str(digest), int(number) if number >= 1:
            grant: Grant = row, digest
            return known.grants.get(grant), (0, number)
    raise _no_use(log, record)


def _no_use(log: LogRead, record: Record) -> BadRequest:
    return _bad(log, f"record {record.index} is no use of a key, although its event is {record.event}")


def _bad(log: LogRead, problem: str) -> BadRequest:
    return BadRequest(
        f"{log.path} is damaged, or no audit log: {problem}; see `hsmd audit verify --log {log.path}`, move the log away, and "
        "give a copy that ends before that with --log"
    )
