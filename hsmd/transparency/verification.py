"""Verifies a whole log: its chain, the references between its records, its tree and its signed checkpoints.

The rules are in docs/audit.md, section 6; `scripts/verify-audit` is a second verifier that shares no code with this one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from hsmd.errors import ProofInvalid, ProtocolError
from hsmd.transparency import records
from hsmd.transparency.checkpoint import Checkpoint, is_origin, parse
from hsmd.transparency.keyring import KeyRing
from hsmd.transparency.lines import NO_HEAD, START, leaf_hash
from hsmd.transparency.merkle import Frontier
from hsmd.transparency.note import Note, Signature
from hsmd.transparency.records import Record, parse_record

MAX_LAG = 100_000
"""Most records between those that a checkpoint covers and its own record: they are written while the token signs."""

_FIELDS = {"origin", "size", "root", "signature"}
_COUNTS = {
    "log.torn": ("bytes",),
    "log.recovered": ("dropped",),
    "log.refusals": ("count",),
    "log.segment": ("first",),
    "log.discontinuity": ("old_size", "new_size"),
    records.GRANT_USED_EVENT: ("attempt", "grant", "number"),
}
"""Fields that count, of events that the log writes about itself and of uses of grants."""


@dataclass(frozen=True, slots=True)
class LogVerdict:
    """The result of a verification.

    `size` records are in order, the last of them with leaf hash `head`, their tree has the root `root` (hex both).
    `checkpoints` counts the good ones, `origin` names their log, and the newest covers the first `covered` records.
    `first_bad` and `last_bad` bound the first wrong or missing record (both are the same where it is known), None if nothing
    is wrong; `reason` is for people.
    """

    size: int
    head: str
    root: str
    checkpoints: int
    covered: int
    origin: str
    open_attempts: int
    first_bad: int | None = None
    last_bad: int | None = None
    reason: str = ""

    @property
    def intact(self) -> bool:
        """Whether nothing is wrong."""
        return self.first_bad is None


class _Bad(Exception):
    """The first fault: one of the records `first` to `last` is wrong."""

    def __init__(self, first: int, last: int, reason: str) -> None:
        self.first, self.last, self.reason = first, last, reason


def verify_log(
    lines: Iterable[bytes], keys: KeyRing | None, *, seen: Collection[Checkpoint] = ()
) -> LogVerdict:
    """Verify a log, streaming; each line carries its line feed, and none is much longer than a record may be.

    `keys` are those that may have signed checkpoints, None to leave signatures unchecked. `seen`: checkpoints known from
    elsewhere (their signatures checked), whose trees the log must contain: without one it cannot be detected that records
    after the last checkpoint were changed or cut off.
    """
    walk = _Walk(keys, seen)
    try:
        walk.follow_all(iter(lines))
    except _Bad as bad:
        return walk.verdict(bad)
    return walk.verdict(None)


class _Walk:
    def __init__(self, keys: KeyRing | None, seen: Collection[Checkpoint]) -> None:
        self.size, self.head = START
        self.covered = 0
        self.checkpoints = 0
        self.origin = ""
        self._keys = keys
        self._newest = 0  # records covered by the newest checkpoint in the log; `seen` ones may cover more
        self._open: set[int] = set()
        self._frontier = Frontier()
        self._leaves: list[bytes] = []  # of the records after the frontier
        self._seen = sorted(seen, key=lambda one: one.size)

    def verdict(self, bad: _Bad | None) -> LogVerdict:
        self._fold(self.size)
        found = (bad.first, bad.last, bad.reason) if bad else (None, None, "")
        return LogVerdict(
            self.size,
            self.head,
            self._frontier.root().hex(),
            self.checkpoints,
            self.covered,
            self.origin,
            len(self._open),
            *found,
        )

    def follow_all(self, lines: Iterator[bytes]) -> None:
        self._check_seen()
        for line in lines:
            record = self._parse(line)
            if record.previous != self.head:
                self._blame(line, next(lines, None))
            try:
                self._check_meaning(record)
            except _Bad as bad:
                raise self._narrowed(bad, line, next(lines, None)) from None
            leaf = leaf_hash(line[:-1])
            self._leaves.append(leaf)
            self.size += 1
            self.head = leaf.hex()
            if len(self._leaves) > 2 * MAX_LAG:
                self._fold(self.size - MAX_LAG)
            if self._seen:
                self._check_seen()
        if self._seen:
            once = self._seen[-1].size
            self._suspect(once - 1, f"the log ends after {self.size} records; it had {once}")

    def _parse(self, line: bytes) -> Record:
        if not line.endswith(b"\n"):
            raise _Bad(self.size, self.size, f"record {self.size}: the line has no end")
        try:
            record = parse_record(line[:-1])
        except ProtocolError as problem:
            raise _Bad(self.size, self.size, f"record {self.size}: {problem.text}") from None
        if record.index != self.size:
            raise _Bad(self.size, self.size, f"record {record.index} stands where record {self.size} belongs")
        return record

    def _blame(self, line: bytes, following: bytes | None) -> None:
        """Raise for a broken link; the next line decides which of the two records was changed."""
        index = self.size
        reason = f"record {index} does not follow from the one before it"
        if index == 0:
            raise _Bad(index, index, reason)
        confirmed = _confirmed(line, following)
        raise _Bad(index if confirmed is False else index - 1, index - 1 if confirmed else index, reason)

    def _narrowed(self, bad: _Bad, line: bytes, following: bytes | None) -> _Bad:
        """Blame the record alone if the next one does not confirm it: then hashes were not recomputed."""
        if _confirmed(line, following) is False:
            return _Bad(self.size, self.size, bad.reason)
        return bad

    def _suspect(self, last: int, reason: str) -> None:
        """Raise: the chain is sound, so hashes were recomputed from some record after the newest good checkpoint on."""
        raise _Bad(min(self.covered, last), last, reason)

    # --- references between records ---

    def _check_meaning(self, record: Record) -> None:
        match record.event:
            case "attempt":
                self._open.add(record.index)
            case "outcome":
                self._close(record)
            case records.MARK_EVENT:
                self._check_mark(record)
            case records.CHECKPOINT_EVENT:
                self._check_checkpoint(record)
            case event if event in _COUNTS:
                self._check_counts(record)

    def _close(self, record: Record) -> None:
        assert record.attempt is not None
        if record.attempt not in self._open:
            self._suspect(
                record.index, f"record {record.index} is the outcome of {record.attempt}, no open attempt"
            )
        self._open.discard(record.attempt)

    def _check_mark(self, record: Record) -> None:
        oldest = record.fields.get("oldest_open")
        still_open = min(self._open, default=record.index)
        if (
            set(record.fields) != {"oldest_open"}
            or not isinstance(oldest, int)
            or not 0 <= oldest <= still_open
        ):
            self._suspect(record.index, f"record {record.index} is wrong about the oldest open attempt")

    def _check_counts(self, record: Record) -> None:
        for name in _COUNTS[record.event]:
            count = record.fields.get(name, 0)
            if not isinstance(count, int) or count < 0:
                self._suspect(record.index, f"record {record.index}: {name} is not a count")

    # --- the tree ---

    def _check_checkpoint(self, record: Record) -> None:
        checkpoint, signature = self._checkpoint_of(record)
        size = checkpoint.size
        if self.origin not in ("", checkpoint.origin):
            self._suspect(
                record.index,
                f"record {record.index} is a checkpoint of {checkpoint.origin}, not {self.origin}",
            )
        if self._keys is not None:
            self._check_signature(self._keys, record, checkpoint, signature)
        self._fold(size)
        if self._frontier.root() != checkpoint.root:
            self._suspect(
                size - 1, f"the first {size} records are not those that record {record.index} covers"
            )
        self.origin = checkpoint.origin
        self._newest = size
        self.covered = max(self.covered, size)
        self.checkpoints += 1

    def _checkpoint_of(self, record: Record) -> tuple[Checkpoint, str]:
        fields = record.fields
        origin, size, root, signature = (fields.get(name) for name in ("origin", "size", "root", "signature"))
        if (
            set(fields) != _FIELDS
            or record.client
            or not (isinstance(origin, str) and isinstance(size, int))
            or not is_origin(origin)
            or not (isinstance(root, str) and isinstance(signature, str) and _is_digest(root))
        ):
            self._suspect(record.index, f"record {record.index} is a malformed checkpoint")
        assert isinstance(origin, str) and isinstance(size, int)
        assert isinstance(root, str) and isinstance(signature, str)
        if not max(self._newest + 1, record.index - MAX_LAG) <= size <= record.index:
            self._suspect(
                record.index, f"record {record.index} is a checkpoint for {size} records, out of order"
            )
        return Checkpoint(origin, size, bytes.fromhex(root)), signature

    def _check_signature(self, keys: KeyRing, record: Record, checkpoint: Checkpoint, signature: str) -> None:
        try:
            note = Note(checkpoint.text(), (Signature.decode(checkpoint.origin, signature),))
            parse(note, keys.verifier(checkpoint.origin, note.signatures[0].key_id))
        except (ProofInvalid, ProtocolError) as problem:
            self._suspect(record.index, f"the checkpoint in record {record.index}: {problem.text}")

    def _check_seen(self) -> None:
        while self._seen and self._seen[0].size == self.size:
            checkpoint = self._seen.pop(0)
            tree = Frontier(self._frontier.size, self._frontier.peaks)
            tree.append(self._leaves)
            if tree.root() != checkpoint.root:
                self._suspect(
                    self.size - 1, f"the first {self.size} records are not those of the checkpoint seen"
                )
            self.covered = max(self.covered, self.size)

    def _fold(self, size: int) -> None:
        """Move the frontier up to `size` records."""
        count = size - self._frontier.size
        if count > 0:
            self._frontier.append(self._leaves[:count])
            del self._leaves[:count]


def _confirmed(line: bytes, following: bytes | None) -> bool | None:
    """Whether the next line confirms `line`; None if there is none, or it is not a record."""
    if following is None:
        return None
    try:
        return parse_record(following.removesuffix(b"\n")).previous == leaf_hash(line[:-1]).hex()
    except ProtocolError:
        return None


def _is_digest(text: str) -> bool:
    return len(text) == len(NO_HEAD) and set(text) <= set("0123456789abcdef")
