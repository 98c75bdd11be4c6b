"""Random edits of a log, with and without recomputed hashes: both verifiers find them, and report the same records.

HSMD_TEST_LOG_EDITS: number of edits in each test (scripts/soak log-edits makes 10^4 in all).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from random import Random

import pytest

from hsmd.transparency.keyring import KeyRing
from hsmd.transparency.note import SignatureType
from hsmd.transparency.verification import verify_log
from tests.support.audit_logs import LogMaker, Signer, rechained, second_verifier, tail_of

EDITS = int(os.environ.get("HSMD_TEST_LOG_EDITS", "150"))
SECOND = second_verifier()
BUILDERS = {
    "Ed25519": Signer(), "P-256": Signer("hsmd/west", SignatureType.ECDSA),
}  # fmt: skip


def a_log(signer: Signer, random: Random) -> LogMaker:
    """About 200 records with a checkpoint about every 20, some of them recorded a little late, and a tail without one."""
    log = LogMaker(signer)
    for _ in range(8):
        log.use(random.randint(5, 12), random)
        size = log.size
        if random.random() < 0.5:
            log.use(random.randint(1, 3), random)
        log.record_checkpoint(size)
    log.use(random.randint(2, 6), random)
    return log


@dataclass(frozen=True)
class Found:
    first: int | None
    last: int | None


def verdicts(lines: list[bytes], log: LogMaker, witness: int | None) -> Found:
    """What both verifiers find, which must be the same; `witness` is the size of a checkpoint seen elsewhere."""
    seen = [] if witness is None else [log.checkpoint(witness)]
    ours = verify_log(lines, KeyRing([log.signer.verifier]), seen=seen)
    keys = [SECOND.read_verifier_key(log.signer.verifier.vkey)]
    theirs = SECOND.Verification(keys, [(one.size, one.root) for one in seen])
    found = Found(None, None)
    try:
        theirs.run(lines)
    except SECOND.Bad as bad:
        found = Found(bad.first, bad.last)
    assert (ours.first_bad, ours.last_bad) == (found.first, found.last), ours.reason
    assert (ours.size, ours.head, ours.covered, ours.checkpoints) == (
        theirs.count,
        theirs.head,
        theirs.covered,
        theirs.checkpoints,
    )
    assert ours.root == theirs.current_root().hex() and ours.open_attempts == len(theirs.open)
    return found


def checkpoints_of(lines: list[bytes]) -> list[tuple[int, int]]:
    """(index of the record, size it covers) of the checkpoints in a log."""
    sizes = (
        (at, re.search(rb'"size":(\d+)', line)) for at, line in enumerate(lines) if b"log.checkpoint" in line
    )
    return [(at, int(match[1])) for at, match in sizes if match]


# --- edits: each returns the index of the first changed record ---


def edit_line(lines: list[bytes], random: Random) -> int:
    at = random.randrange(len(lines))
    line = bytearray(lines[at])
    line[random.randrange(len(line))] ^= 1 << random.randrange(8)
    lines[at : at + 1] = bytes(line).splitlines(keepends=True)
    if at + 1 < len(lines) and not lines[at].endswith(b"\n"):
        lines[at : at + 2] = [lines[at] + lines[at + 1]]
    return at


def edit_value(lines: list[bytes], random: Random) -> int:
    """Replace a value; the record stays canonical."""
    at = random.randrange(len(lines))
    values = list(re.finditer(rb'(?<=")[0-9a-f]{64}(?=")|web-1|performed|ops', lines[at]))
    match = random.choice(values)
    other = {b"web-1": b"web-2", b"performed": b"failed", b"ops": b"opz"}.get(match[0])
    digit = random.randrange(match.start(), match.end())
    lines[at] = (
        lines[at][: match.start()] + other + lines[at][match.end() :]
        if other
        else lines[at][:digit]
        + (b"0" if lines[at][digit : digit + 1] != b"0" else b"1")
        + lines[at][digit + 1 :]
    )
    return at


def delete(lines: list[bytes], random: Random) -> int:
    at = random.randrange(len(lines))
    count = random.choice([1, 1, 1, 2, 5])
    del lines[at : at + count]
    return at


def swap(lines: list[bytes], random: Random) -> int:
    first, second = sorted(random.sample(range(len(lines)), 2))
    lines[first], lines[second] = lines[second], lines[first]
    return first


def insert(lines: list[bytes], random: Random) -> int:
    at = random.randrange(len(lines) + 1)
    lines.insert(at, random.choice(lines))
    return at


def move(lines: list[bytes], random: Random) -> int:
    source = random.randrange(len(lines))
    line = lines.pop(source)
    target = random.randrange(len(lines) + 1)
    lines.insert(target, line)
    return min(source, target)


def truncate(lines: list[bytes], random: Random) -> int:
    at = random.randrange(len(lines))
    cut = random.choice([0, 0, random.randrange(1, len(lines[at]))])
    lines[at:] = [lines[at][:cut]] if cut else []
    return at


NAIVE = [edit_line, edit_value, delete, swap, insert, move, truncate]


@pytest.fixture(params=sorted(BUILDERS))
def signer(request: pytest.FixtureRequest) -> Signer:
    return BUILDERS[request.param]


def first_difference(before: list[bytes], after: list[bytes]) -> int | None:
    pairs = zip(before, after, strict=False)
    changed = next((at for at, (old, new) in enumerate(pairs) if old != new), min(len(before), len(after)))
    return None if before == after else changed


def test_unedited_logs_verify(signer: Signer) -> None:
    log = a_log(signer, Random(1))
    assert verdicts(log.lines, log, None) == verdicts(log.lines, log, log.size) == Found(None, None)


def test_naive_edits_are_located_to_the_record(signer: Signer) -> None:
    """No hash is recomputed: the chain shows which record was changed, except that the last two may be ambiguous."""
    random = Random(f"naive {random_seed()}")
    log = a_log(signer, random)
    for number in range(EDITS):
        if number % 50 == 0:
            log = a_log(signer, random)
        lines = list(log.lines)
        edit = random.choice(NAIVE)
        edit(lines, random)
        at = first_difference(log.lines, lines)
        if at is None:
            continue
        alone, witnessed = verdicts(lines, log, None), verdicts(lines, log, log.size)
        what = f"{edit.__name__} at {at} of {log.size}"
        assert witnessed.first is not None, what
        if (
            alone.first is None
        ):  # truncated, or the last record changed, or one appended: the file itself shows no contradiction
            whole = [line for line in lines if line in log.lines]
            assert at >= len(whole) - 1 and len(lines) in (at, at + 1), what
            assert witnessed.first <= at <= (witnessed.last or 0) or len(lines) > log.size, what
            continue
        assert alone.first <= at <= (alone.last or 0), what
        assert alone.first == alone.last or at >= len(lines) - 3, what
        if alone.first == alone.last:
            assert alone == witnessed, what


@pytest.mark.parametrize("dropped", ["none", "next", "all later"])
def test_edits_with_recomputed_hashes_are_located_between_checkpoints(signer: Signer, dropped: str) -> None:
    random = Random(f"patient {dropped} {random_seed()}")
    log = a_log(signer, random)
    for number in range(EDITS):
        if number % 50 == 0:
            log = a_log(signer, random)
        lines = rehashed(log, random, dropped)
        at = first_difference(log.lines, lines)
        if at is None:
            continue
        alone, witnessed = verdicts(lines, log, None), verdicts(lines, log, log.size)
        what = f"at {at} of {log.size}, {len(lines)} now"
        if at < checkpoints_of(log.lines)[-1][1] and dropped != "all later" and checkpoint_after(lines, at):
            assert alone.first is not None, what
        if at < log.size:
            assert witnessed.first is not None, what
        for found in (alone, witnessed):
            assert found.first is None or near(found, log, lines, at), f"{what}: {found}"


def rehashed(log: LogMaker, random: Random, dropped: str) -> list[bytes]:
    """The log edited, renumbered and rehashed, half of the time with corrected references from outcomes to attempts."""
    lines = list(log.lines)
    random.choice([edit_value, delete, swap, insert, move, cut])(lines, random)
    at = first_difference(log.lines, lines)
    assert at is None or at >= 0
    later = [index for index, line in enumerate(lines) if b"log.checkpoint" in line and index >= (at or 0)]
    gone = {"none": set[int](), "next": set(later[:1]), "all later": set(later)}[dropped]
    kept = [line for index, line in enumerate(lines) if index not in gone]
    return rechained(repointed([tail_of(line) for line in kept], random))


def cut(lines: list[bytes], random: Random) -> int:
    at = random.randrange(1, len(lines))
    del lines[at:]
    return at


def repointed(tails: list[str], random: Random) -> list[str]:
    """Half of the time, point every outcome at the newest attempt."""
    if random.random() < 0.5:
        return tails
    newest, corrected = 0, []
    for index, tail in enumerate(tails):
        newest = index if '"event":"attempt"' in tail else newest
        corrected.append(re.sub(r'"attempt":\d+', f'"attempt":{newest}', tail))
    return corrected


def checkpoint_after(lines: list[bytes], at: int) -> bool:
    return any(size > at for _, size in checkpoints_of(lines))


def near(found: Found, log: LogMaker, lines: list[bytes], at: int) -> bool:
    """The reported interval contains the change, from the newest checkpoint before it to the next remaining one."""
    assert found.first is not None and found.last is not None
    begin = max((size for index, size in checkpoints_of(log.lines) if index < at), default=0)
    covering = (index for index, size in checkpoints_of(lines) if size > at)
    end = min(covering, default=max(log.size, len(lines)))
    return begin <= found.first <= at <= found.last <= end


def test_a_tail_cut_after_the_last_checkpoint_is_found_by_a_witness(signer: Signer) -> None:
    log = a_log(signer, Random(random_seed()))
    index, covered = checkpoints_of(log.lines)[-1]
    for size in range(index + 1, log.size):
        lines = log.lines[:size]
        assert verdicts(lines, log, None) == Found(None, None)
        assert verdicts(lines, log, log.size) == Found(covered, log.size - 1)


def test_a_checkpoint_by_another_key_or_of_another_log_is_rejected(signer: Signer) -> None:
    honest = a_log(signer, Random(random_seed()))
    for forger in (
        Signer(signer.verifier.name, signer.verifier.kind, 9),
        Signer("hsmd/north", signer.verifier.kind),
    ):
        forged = LogMaker(forger)
        for line in honest.lines:
            if b"log.checkpoint" in line:
                forged.record_checkpoint()
            else:
                forged.add(tail_of(line))
        forged.signer = signer
        assert verdicts(forged.lines, forged, None) == Found(0, checkpoints_of(forged.lines)[0][0])


def random_seed() -> int:
    """A fixed seed in the suite; a random one in a soak."""
    return Random().getrandbits(32) if "HSMD_TEST_LOG_EDITS" in os.environ else 1
