"""Recounting uses of keys in the vault from audit logs: what counts, what is missing, and what is no log."""

from __future__ import annotations

import base64
import os
import re
import time
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hsmd.daemon.backup.known_counts import KnownCounts
from hsmd.daemon.backup.recount import Recount
from hsmd.daemon.store.portable import Document
from hsmd.errors import BadRequest, StoreFailure
from hsmd.system.log_files import LIVE_NAME, SEGMENTS, segment_name
from hsmd.transparency.lines import event_tail
from tests.support.audit_logs import LogMaker, Signer, rechained

EAST, WEST = "hsmd/east", "hsmd/west"
KEY = "ab" * 32
WWW, MAIL = 7, 8
"""Row ids of versions."""
VERSIONS = {("ann", "www", 1): WWW, ("ann", "mail", 1): MAIL}


def acquired(request: int, released: int | None = None, record: str = "www", **more: Any) -> str:
    """The tail of an acquisition; refused without `released`."""
    outcome: dict[str, Any] = {"refusal": "limit"} if released is None else {"released": released}
    fields = {"owner": "ann", "record": record, "version": 1, "request": request, "ticket": "0-aa", **outcome}
    return event_tail("vault.acquired", "ann", fields | more)


def used(number: Any, grant: Any = 3, key: Any = KEY) -> str:
    """The tail of a use of a limited grant."""
    return event_tail("grant.used", "web1", {"attempt": 0, "grant": grant, "key": key, "number": number})


def written(directory: Path, lines: list[bytes], *firsts: int, without: tuple[int, ...] = ()) -> Path:
    """A log whose live file begins with the last of `firsts`; the segments that begin with `without` were archived."""
    (directory / SEGMENTS).mkdir(parents=True)
    starts = [0, *firsts]
    for first, end in zip(starts, [*firsts, len(lines)], strict=True):
        name = LIVE_NAME if first == starts[-1] else f"{SEGMENTS}/{segment_name(first)}"
        if first not in without:
            (directory / name).write_bytes(b"".join(lines[first:end]))
    return directory


def knowing(**logs: int) -> Recount:
    """A recount for a backup that knows so many records of the logs of these daemons."""
    return Recount(KnownCounts(VERSIONS, {f"hsmd/{name}": size for name, size in logs.items()}))


def counts(recount: Recount) -> dict[int, tuple[int, int]]:
    """What `apply` would raise: requests and releases by row id."""
    return recount._versions


def log_of(*tails: str, origin: str = EAST) -> LogMaker:
    """A log with a checkpoint behind these records."""
    log = LogMaker(Signer(origin))
    log.add(*tails)
    log.record_checkpoint()
    return log


# --- what counts ---


def test_the_highest_numbers_of_all_logs_count(tmp_path: Path) -> None:
    """Acquisitions of one version are in two logs, in no order; a refused one raises requests only."""
    recount = knowing(east=1, west=1)
    east = log_of(acquired(1, 1), acquired(4, 3), acquired(2), acquired(1, 1, "mail"))
    west = log_of(acquired(3, 2), acquired(6), acquired(5), origin=WEST)
    recount.read(written(tmp_path / "east", east.lines))
    assert counts(recount) == {WWW: (4, 3), MAIL: (1, 1)}
    recount.read(written(tmp_path / "west", west.lines, 2))
    assert counts(recount) == {WWW: (6, 3), MAIL: (1, 1)}
    assert [(log.origin, log.records, log.acquisitions) for log in recount.logs] == [
        (EAST, 5, 4),
        (WEST, 4, 3),
    ]
    assert recount.uncounted == []
    assert all(log.complete for log in recount.logs)


def test_a_log_that_is_given_twice_and_one_that_is_old_lower_nothing(tmp_path: Path) -> None:
    recount = knowing(east=1)
    log = log_of(acquired(1, 1), acquired(2, 2), acquired(2, 2, counted_at="late"))
    recount.read(written(tmp_path / "new", log.lines))
    recount.read(written(tmp_path / "again", log.lines))
    recount.read(written(tmp_path / "old", log_of(acquired(1, 1)).lines))
    assert counts(recount) == {WWW: (2, 2)}


def test_versions_that_the_backup_does_not_have_take_no_memory(tmp_path: Path) -> None:
    recount = knowing()
    tails = [acquired(1, 1, f"later-{number}") for number in range(50)]
    log = recount.read(written(tmp_path / "log", log_of(acquired(1, 1), *tails).lines))
    assert counts(recount) == {WWW: (1, 1)}
    assert (log.acquisitions, log.not_in_backup) == (51, 50)


def test_a_file_is_a_log_too(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"".join(log_of(acquired(2, 1)).lines))
    recount = knowing()
    assert recount.read(path).records == 2
    assert counts(recount) == {WWW: (2, 1)}


def test_uses_of_limited_grants_count_for_the_grant_and_key_in_the_backup(tmp_path: Path) -> None:
    """The row id of a grant that was added after the backup may be that of another grant in the restored store."""
    recount = Recount(KnownCounts(VERSIONS, {}, {(3, KEY): 30, (4, KEY): 40}))
    tails = [used(5), used(7), used(6), used(1, 4), used(9, 3, "00" * 32), used(9, 5), acquired(1, 1)]
    log = recount.read(written(tmp_path / "log", log_of(*tails).lines))
    assert recount._grants == {30: (0, 7), 40: (0, 1)}
    assert (log.grant_uses, log.acquisitions, log.not_in_backup) == (6, 1, 2)


# --- what is missing ---


@pytest.mark.parametrize(
    ("without", "known", "complete"),
    [((), 1, True), ((0,), 2, True), ((0,), 1, False), ((2,), 2, False), ((0, 2), 4, True)],
)
def test_archived_segments_matter_if_they_may_be_newer_than_the_backup(
    tmp_path: Path, without: tuple[int, ...], known: int, complete: bool
) -> None:
    """The backup tells how many records its daemon had: what is missing of these was counted before."""
    made = log_of(*[acquired(number, number) for number in range(1, 6)])
    recount = knowing(east=known)
    log = recount.read(written(tmp_path / "log", made.lines, 2, 4, without=without))
    assert (log.missing, log.records) == (2 * len(without), 6 - 2 * len(without))
    assert log.complete is complete
    assert recount.uncounted == ([] if complete else [EAST])
    assert counts(recount) == {WWW: (5, 5)}


def test_a_log_that_ends_before_the_backup_was_made_is_not_complete(tmp_path: Path) -> None:
    recount = knowing(east=3)
    assert not recount.read(written(tmp_path / "log", log_of(acquired(1, 1)).lines)).complete
    assert recount.uncounted == [EAST]


def test_the_log_in_the_backup_ends_with_it(tmp_path: Path) -> None:
    recount = knowing(east=1)
    log = recount.read(written(tmp_path / "log", log_of(acquired(1, 1)).lines), from_backup=True)
    assert not log.complete
    assert recount.uncounted == [EAST]
    assert counts(recount) == {WWW: (1, 1)}


def test_a_log_without_a_checkpoint_is_the_one_of_no_daemon(tmp_path: Path) -> None:
    made = LogMaker()
    made.add(acquired(3, 2))
    recount = knowing(east=1)
    log = recount.read(written(tmp_path / "log", made.lines))
    assert (log.origin, log.complete, recount.uncounted) == ("", False, [EAST])
    assert counts(recount) == {WWW: (3, 2)}


def test_a_log_whose_daemon_was_renamed_has_both_origins(tmp_path: Path) -> None:
    made = log_of(acquired(1, 1))
    made.signer = Signer(WEST)
    made.record_checkpoint()
    recount = knowing(east=1, west=2)
    assert recount.read(written(tmp_path / "log", made.lines)).origin == WEST
    assert recount.uncounted == []


@pytest.mark.parametrize(
    "torn", [b'{"index":2,"previ', b"\0" * 100, b"\0" * 200_000], ids=["line", "zeros", "blocks"]
)
def test_an_end_that_a_crash_leaves_is_no_record(tmp_path: Path, torn: bytes) -> None:
    log = written(tmp_path / "log", log_of(acquired(1, 1)).lines)
    with (log / LIVE_NAME).open("ab") as file:
        file.write(torn)
    assert knowing().read(log).records == 2


@pytest.mark.parametrize("hole", [0, 20, 70_000], ids=["at a line", "in a line", "behind too long a line"])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("segment", [False, True])
def test_records_behind_zeros_are_not_left_out(
    tmp_path: Path, hole: int, sparse: bool, segment: bool
) -> None:
    """Zeros are an end that a crash leaves only if nothing else follows: a copy of a bad disk has them in the middle."""
    made = log_of(*[acquired(number, number) for number in range(1, 5)])
    log = written(tmp_path / "log", made.lines, *([2] if segment else []))
    zeros = 3 << 20
    with (log / LIVE_NAME).open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(b"{" * hole)
        if sparse:
            file.seek(zeros, os.SEEK_CUR)
        else:
            file.write(bytes(zeros))
        file.write(made.lines[-1])
    assert "line 6 has no end" in refused(log)


def test_a_sparse_end_is_not_read_through(tmp_path: Path) -> None:
    log = written(tmp_path / "log", log_of(acquired(1, 1)).lines)
    os.truncate(log / LIVE_NAME, 1 << 42)
    began = time.thread_time()
    assert knowing().read(log).records == 2
    assert time.thread_time() - began < 1


# --- what is no log ---


def refused(path: Path) -> str:
    """The message about a log that was refused, of which nothing counts."""
    recount = knowing(east=1)
    with pytest.raises(BadRequest) as caught:
        recount.read(path)
    assert counts(recount) == {}
    assert recount.logs == []
    assert str(path) in caught.value.text
    return caught.value.text


@pytest.mark.parametrize(
    "garbage", [b"garbage\n", b"\n", b"\xff\xfe\n", b'{"index":2}\n', b"x" * 70_000, b"{" * 60_000 + b"\n"]
)
def test_a_line_that_is_no_record_is_refused(tmp_path: Path, garbage: bytes) -> None:
    made = log_of(acquired(1, 1))
    text = refused(written(tmp_path / "log", [*made.lines, garbage]))
    assert "line 3" in text
    assert "hsmd audit verify --log" in text


def test_records_that_do_not_follow_on_each_other_are_refused(tmp_path: Path) -> None:
    made = log_of(*[acquired(number, number) for number in range(1, 5)])
    altered = [*made.lines]
    altered[1] = altered[1].replace(b'"request":2', b'"request":1').replace(b'"released":2', b'"released":1')
    assert "line 3: record 2 does not follow" in refused(written(tmp_path / "altered", altered))
    assert "record 0 stands where" in refused(written(tmp_path / "twice", made.lines * 2))
    swapped = [made.lines[0], made.lines[2], made.lines[1]]
    assert "line 3: record 1 stands where" in refused(written(tmp_path / "swapped", swapped))
    unfinished = [*made.lines]
    unfinished[1] = unfinished[1][:-1]
    assert "line 2 has no end" in refused(written(tmp_path / "unfinished", unfinished, 2))


@pytest.mark.parametrize(
    "tail",
    [
        acquired(0, 0),
        acquired(2, 3),
        acquired(-1),
        acquired(1, -1),
        acquired(1, 1, version="1"),
        acquired(1, 1, owner=5),
        event_tail("vault.acquired", "ann", {"owner": "ann"}),
        used(0),
        used("1"),
        used(1, key=5),
    ],
)
def test_an_acquisition_with_impossible_numbers_is_refused(tmp_path: Path, tail: str) -> None:
    lines = rechained([acquired(1, 1), tail])
    assert "record 1 is no use of a key" in refused(written(tmp_path / "log", lines))


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "cannot be read" in refused(tmp_path / "nothing")
    assert "neither audit.jsonl nor segments" in refused(tmp_path / "empty")
    directory = tmp_path / "directory"
    (directory / LIVE_NAME).mkdir(parents=True)
    assert "cannot be read: Is a directory" in refused(directory)


@pytest.mark.timeout(10)
def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LIVE_NAME)
    assert "cannot be read" in refused(tmp_path)
    assert "cannot be read" in refused(tmp_path / LIVE_NAME)


def test_records_that_are_left_out_are_noticed_and_others_refused(tmp_path: Path) -> None:
    """Each record is left out, repeated or replaced once: a gap is noted, all else is refused."""
    made = log_of(*[acquired(number, number) for number in range(1, 4)])
    for at in range(len(made.lines)):
        left_out = [*made.lines[:at], *made.lines[at + 1 :]]
        recount = knowing(east=1)
        log = recount.read(written(tmp_path / f"left-out-{at}", left_out))
        assert log.complete is (at == 0), "the first one is in the backup"
        for name, lines in (
            ("repeated", [*made.lines[: at + 1], *made.lines[at:]]),
            ("replaced", [*made.lines[:at], b"{}\n", *made.lines[at + 1 :]]),
        ):
            refused(written(tmp_path / f"{name}-{at}", lines))


# --- what the backup knows ---


def document(**tables: list[dict[str, Any]]) -> bytes:
    return msgspec.json.encode(Document("0001", tables))


def test_a_backup_of_an_earlier_release_knows_no_versions() -> None:
    assert KnownCounts.of(document(clients=[])) == KnownCounts({}, {})


def test_of_two_owners_with_a_name_the_present_one_counts() -> None:
    owners = [
        {"owner_id": 2, "client_id": 2, "name": "ann"},
        {"owner_id": 1, "client_id": None, "name": "ann"},
    ]
    records = [{"id": 20, "name": "www"}, {"id": 10, "name": "www"}]
    versions = [
        {"id": 200, "record_id": 20, "owner_id": 2, "version": 1},
        {"id": 100, "record_id": 10, "owner_id": 1, "version": 1},
        {"id": 101, "record_id": 10, "owner_id": 1, "version": 2},
    ]
    known = KnownCounts.of(document(vault_owners=owners, vault_records=records, vault_versions=versions))
    assert known == KnownCounts({("ann", "www", 1): 200, ("ann", "www", 2): 101}, {})


def test_logs_and_limited_grants_of_a_backup_are_known() -> None:
    counted = [{"id": 30, "key_digest": {"bytes": base64.b64encode(bytes.fromhex(KEY)).decode()}}]
    grants, heads = [{"id": 3, "uses_id": 30}], [{"origin": EAST, "size": 5}]
    known = KnownCounts.of(document(grant_uses=counted, limited_grants=grants, audit_heads=heads))
    assert known == KnownCounts({}, {EAST: 5}, {(3, KEY): 30})
    for digest in ({"bytes": "?"}, {"bytes": None}, None):
        with pytest.raises(StoreFailure, match="damaged"):
            KnownCounts.of(document(grant_uses=[{"id": 30, "key_digest": digest}], limited_grants=grants))


@pytest.mark.parametrize("rows", [[{"id": 1}], [{"id": 1, "record_id": 1, "owner_id": 9, "version": 1}]])
def test_a_damaged_backup_is_refused(rows: list[dict[str, Any]]) -> None:
    with pytest.raises(StoreFailure, match="damaged"):
        KnownCounts.of(document(vault_versions=rows))


# --- size ---


def test_a_long_log_is_read_in_bounded_memory(tmp_path: Path) -> None:
    """40,000 records, 13 MB: reading a million takes seconds, and the memory is that of the pieces that are read at once."""
    tails = [acquired(number, number) for number in range(1, 1_001)] * 40
    log = written(tmp_path / "log", rechained(tails))
    recount = knowing()
    began = time.thread_time()
    assert recount.read(log).records == 40_000
    assert time.thread_time() - began < 4
    tracemalloc.start()
    try:
        recount.read(log)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
    assert counts(recount) == {WWW: (1_000, 1_000)}


def test_the_message_about_a_log_fits_the_reader(tmp_path: Path) -> None:
    """Path, line and next step, without the content of the line."""
    text = refused(written(tmp_path / "log", [b"secret-looking\n"]))
    assert re.fullmatch(
        r"\S+ is damaged, or no audit log: line 1: not an audit record: .*; see `hsmd.*", text
    )
    assert "secret-looking" not in text
