"""Readers of the audit log get exactly the records they may see: for any page size, wherever the records are by then."""

from __future__ import annotations

import asyncio
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings, strategies as st

from hsmd.daemon.audit import AuditLog, readers
from hsmd.daemon.audit.archiving import archive
from hsmd.daemon.audit.files_at_hand import FilesAtHand
from hsmd.daemon.audit.readers import Readable, Reader, about, may_read
from hsmd.protocol.audit_fields import KEY_DIGEST
from hsmd.system.log_files import segment_name
from hsmd.transparency.lines import format_time
from hsmd.transparency.records import parse_record

CLIENTS = ("ann", "web-1", "web-2")
NAMES = ("www", "shop")
DIGESTS = (b"\1" * 32, b"\2" * 32, b"\3" * 32)
OPERATIONS = ("client.add", "key.destroy", "key.generate", "grant.add", "cert.import", "status")
BEGIN = datetime(2026, 3, 4, 12, tzinfo=UTC)
STEPS = 40

clients, names = st.sampled_from(CLIENTS), st.sampled_from(NAMES)
keys = st.sampled_from(range(len(DIGESTS)))
steps = st.one_of(
    st.tuples(st.just("attempt"), clients, keys, names),
    st.tuples(st.just("outcome"), st.integers(0, 3)),
    st.tuples(st.just("used"), st.integers(0, 3), st.sampled_from(("", *CLIENTS)), st.booleans()),
    st.tuples(st.just("refusal"), clients, keys),
    st.tuples(
        st.just("control"), st.sampled_from(OPERATIONS), clients, clients, names, st.none() | keys
    ),  # by whom, about which client, which name, and which key, which only newer records tell
    st.tuples(st.just("own")),
    st.tuples(st.just("seal")),
)
moments = st.none() | st.integers(0, 12)
spans = st.lists(st.tuples(moments, moments), min_size=1, max_size=2)
held = st.dictionaries(keys, spans)
"""Keys that belong to a client, or that it is a reader of, and the times in which they did."""
named = st.dictionaries(names, spans)


def at(moment: int | None, default: str) -> str:
    return default if moment is None else format_time(BEGIN + timedelta(seconds=moment))


def as_times(found: list[tuple[int | None, int | None]]) -> readers.Spans:
    return tuple((at(begin, readers.BEGIN), at(end, readers.END)) for begin, end in found)


def reader(client: str, everything: bool, since: int, mine: Any, called: Any) -> tuple[Reader, Any]:
    made = Reader(
        client,
        everything,
        at(since, ""),
        {DIGESTS[key].hex(): as_times(found) for key, found in mine.items()},
        {name: as_times(found) for name, found in called.items()},
    )
    return made, (client, everything, since, mine, called)


readers_of = st.builds(
    reader, clients, st.sampled_from((False, False, False, True)), st.integers(0, 12), held, named
)


class Written:
    """A log whose record number N was written at second N, and which can be sealed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = AuditLog.open(directory / "audit", clock=lambda: BEGIN + timedelta(seconds=self.log.size))
        self.open: list[int] = []
        self.attempts: list[tuple[int, int]] = []

    async def write(self, kind: str, *of: Any) -> None:
        log = self.log
        if kind == "attempt":
            client, key, name = of
            self.open.append(log.attempt(client, "cred", name, DIGESTS[key], "tls13-server", 0x0403, b""))
            self.attempts.append((self.open[-1], key))
        elif kind == "outcome" and self.open:
            log.outcome(self.open.pop(of[0] % len(self.open)), "performed", b"x")
        elif kind == "used" and self.attempts:
            attempt, key = self.attempts[of[0] % len(self.attempts)]
            digest = {"key": DIGESTS[key].hex()} if of[2] else {}
            log.event("grant.used", of[1], attempt=attempt, grant=7, number=1, **digest)
        elif kind == "refusal":
            log.refusal(of[0], "cred", DIGESTS[of[1]], "tls13-server", 0x0403, b"", "no-grant")
        elif kind == "control":
            operation, by, client, name, key = of
            digest = {} if key is None else {KEY_DIGEST: DIGESTS[key].hex()}
            log.event("control.done", by, op=operation, **targets(operation, client, name), **digest)
        elif kind == "own":
            log.event("log.recovered", "", dropped=1)
        elif kind == "seal":
            await log.seal()
        log.commit()


def targets(operation: str, client: str, key: str) -> dict[str, str]:
    return {
        "client.add": {"target_name": client},
        "key.destroy": {"target_name": key},
        "key.generate": {"target_name": key, "target_owner": client},
        "grant.add": {"target_client": client, "target_key": key},
        "cert.import": {"target_key": key},
        "status": {},
    }[operation]


def for_reader(lines: list[str], rights: Any) -> list[int]:
    """Indices of the records for a reader: an independent implementation of the rule in docs/audit.md."""
    client, everything, since, mine, called = rights
    records = [msgspec.to_builtins(parse_record(line.encode())) for line in lines]

    def during(found: list[tuple[int | None, int | None]], moment: int) -> bool:
        return any(
            (begin is None or begin <= moment) and (end is None or moment < end) for begin, end in found
        )

    def concerns(record: dict[str, Any]) -> bool:
        index, fields = record["index"], record.get("fields", {})
        # The records of one commit have the time of its begin.
        moment = round((datetime.fromisoformat(record["time"]) - BEGIN).total_seconds())
        if everything:
            return True
        if record.get("client") == client and moment >= since:
            return True
        if record["event"] == "outcome":
            return concerns(records[record["attempt"]])
        if record["event"] == "grant.used" and concerns(records[fields["attempt"]]):
            return True
        digest = record.get("key") or fields.get("target_digest") or fields.get("key")
        if digest and during(mine.get(DIGESTS.index(bytes.fromhex(digest)), []), moment):
            return True
        assert index == records[index]["index"]
        operation = fields.get("op", "")
        about_client = fields.get("target_name") if operation == "client.add" else fields.get("target_client")
        about_client = fields["target_owner"] if operation == "key.generate" else about_client
        if about_client == client and moment >= since:
            return True
        name = fields.get("target_name") if operation.startswith("key.") else fields.get("target_key")
        return not digest and during(called.get(name, []), moment)

    return [record["index"] for record in records if concerns(record)]


def asked(written: Written, first: int, limit: int, who: Reader) -> Readable:
    with written.log.view() as view, FilesAtHand(view) as files:
        return about(files, written.log.size, first, limit, who)


def proven(written: Written, index: int, who: Reader) -> bool:
    """Whether a reader gets a proof of a record."""
    with written.log.view() as view, FilesAtHand(view) as files:
        line = files.line(index)
        return may_read(files, line, who)


def index_of(line: str) -> int:
    return int(parse_record(line.encode()).index)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(steps, max_size=STEPS),
    readers_of,
    st.integers(1, 7),
    st.integers(1, 9),
    st.integers(1, 3),
    st.lists(st.sampled_from(("here", "copied", "moved", "away")), min_size=STEPS, max_size=STEPS),
    st.integers(0, 5),
)
def test_readers_get_exactly_the_records_they_may_see(
    made: list[Any],
    who: tuple[Reader, Any],
    limit: int,
    scanned: int,
    looked_up: int,
    places: list[str],
    later: int,
) -> None:
    """Segments stay, are copied to an archive, moved there, or moved to where the daemon cannot read them.

    All of this happens before the page with the number `later`.
    """

    async def check() -> None:
        with tempfile.TemporaryDirectory() as directory:
            written = Written(Path(directory))
            for step in made:
                await written.write(*step)
            size = written.log.size
            expected = for_reader(all_lines(written, size), who[1])
            found: list[int] = []
            first = page_number = 0
            away: set[int] = set()
            gone: set[int] = set()
            asked_since = 0
            while first < size:
                if page_number == later:
                    gone, asked_since = put_away(written, places), first
                page = asked(written, first, limit, who[0])
                lines = [index_of(line) for line in page.lines]
                left_out = [index for begin, end in page.away for index in range(begin, end)]
                assert len(lines) <= limit
                assert first < page.following <= size
                assert page.following - first - len(left_out) <= scanned
                assert all(first <= index < page.following for index in lines)
                found += lines
                away.update(left_out)
                first = page.following
                page_number += 1
            assert away == {index for index in gone if index >= asked_since}
            assert found == [index for index in expected if index in found], "order, and each once"
            missing = set(expected) - set(found)
            assert set(found) <= set(expected)
            assert missing <= gone | following(written, gone), (
                "only what is away, or follows from what is away"
            )
            for index in set(range(size)) - gone - following(written, gone):
                assert proven(written, index, who[0]) == (index in expected)
            await written.log.close()

    before = readers.MAX_SCANNED, readers.MAX_LOOKED_UP
    readers.MAX_SCANNED, readers.MAX_LOOKED_UP = scanned, looked_up
    try:
        asyncio.run(check())
    finally:
        readers.MAX_SCANNED, readers.MAX_LOOKED_UP = before


def all_lines(written: Written, size: int) -> list[str]:
    lines: list[str] = []
    while len(lines) < size:
        lines += written.log.read(len(lines), 500)
    return lines


def put_away(written: Written, places: list[str]) -> set[int]:
    """Treat each sealed segment as the next of `places` says; return the records that are not at hand then."""
    audit, to = written.directory / "audit", written.directory / "archive"
    archive(audit, to, remove=False)
    segments = sorted((audit / "segments").glob("0*.jsonl"))
    firsts = [int(path.stem) for path in segments]
    with written.log.view() as view:
        ends = [*firsts[1:], view.first_live]
    gone: set[int] = set()
    for path, first, end, place in zip(segments, firsts, ends, places, strict=False):
        if place == "here":
            (to / segment_name(first)).unlink()
        elif place in ("moved", "away"):
            path.unlink()
        if place == "away":
            (to / segment_name(first)).rename(written.directory / f"tape-{first}")
            gone.update(range(first, end))
    return gone


def following(written: Written, gone: set[int]) -> set[int]:
    """Records that follow from attempts that are not at hand."""
    found = set()
    with written.log.view() as view, FilesAtHand(view) as files:
        for index, line in files.lines(0):
            record = parse_record(line.removesuffix(b"\n"))
            attempt = record.attempt if record.event == "outcome" else record.fields.get("attempt")
            if attempt in gone:
                found.add(index)
    return found
