"""The chain of audit records: every change of a written log is found, and at the right record."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given, strategies as st

from hsmd.transparency.checkpoint import Checkpoint
from hsmd.transparency.lines import (
    NO_HEAD,
    START,
    Head,
    attempt_stem,
    attempt_tail,
    event_tail,
    extend,
    leaf_hash,
    outcome_tail,
    record_line,
)
from hsmd.transparency.merkle import Frontier
from hsmd.transparency.verification import LogVerdict, verify_log
from tests.support.audit_logs import end_of_chain

MUTATIONS = 1_500
TIME = "2026-11-21T02:03:04.567890Z"


def tails_of(count: int) -> list[str]:
    stem = attempt_stem("web-1", "SHA256:x", "www", b"k" * 32, "tls13-server", 0x0403)
    made = []
    for number in range(count):
        digest = hashlib.sha256(bytes([number % 256])).hexdigest()
        if number % 3 == 0:
            made.append(attempt_tail(stem, digest))
        elif number % 3 == 1:
            made.append(outcome_tail(number - 1, "performed", digest))
        else:
            made.append(event_tail("key.generate", "ops\n", {"number": number}))
    return made


def log_of(count: int) -> tuple[list[bytes], Head]:
    data, head = extend(START, TIME, tails_of(count))
    return data.splitlines(), head


LINES, HEAD = log_of(60)


def test_leaf_hash_conforms_to_rfc_9162():
    # The leaf hashes of RFC 6962's well-known test tree: of the empty leaf and of one zero byte.
    assert leaf_hash(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert leaf_hash(b"\x00").hex() == "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"


@given(st.lists(st.sampled_from(tails_of(9)), max_size=20), st.integers(0, 20))
def test_extending_in_two_steps_equals_one(tails, cut):
    first, between = extend(START, TIME, tails[:cut])
    second, end = extend(between, TIME, tails[cut:])
    assert (first + second, end) == extend(START, TIME, tails)
    lines = (first + second).splitlines()
    for index, line in enumerate(lines):
        previous = leaf_hash(lines[index - 1]).hex() if index else NO_HEAD
        assert line == record_line(index, previous, TIME, tails[index])


def verdict_of(lines: list[bytes], *seen: Checkpoint) -> LogVerdict:
    return verify_log([line + b"\n" for line in lines], None, seen=seen)


def checkpoint_of(lines: list[bytes]) -> Checkpoint:
    tree = Frontier()
    tree.append(map(leaf_hash, lines))
    return Checkpoint("hsmd/east", len(lines), tree.root())


SEEN = checkpoint_of(LINES)


def test_an_intact_log_verifies():
    verdict = verdict_of(LINES, SEEN)
    assert (verdict.intact, verdict.size, verdict.head) == (True, 60, HEAD.head)
    assert verdict_of(LINES, checkpoint_of(LINES[:20])).intact
    assert end_of_chain(LINES) == HEAD


def flip(rng: random.Random) -> tuple[list[bytes], int]:
    """Change one byte of one record."""
    lines, at = list(LINES), rng.randrange(len(LINES))
    line = bytearray(lines[at])
    position = rng.randrange(len(line))
    line[position] ^= rng.randrange(1, 256)
    lines[at] = bytes(line)
    return b"\n".join(lines).split(b"\n"), at


def rewrite(rng: random.Random) -> tuple[list[bytes], int]:
    """Replace one record by another valid one with the same index and previous hash."""
    lines, at = list(LINES), rng.randrange(len(LINES))
    previous = leaf_hash(LINES[at - 1]).hex() if at else NO_HEAD
    lines[at] = record_line(at, previous, TIME, event_tail("forged", "", {"number": rng.randrange(1 << 40)}))
    return lines, at


def delete(rng: random.Random) -> tuple[list[bytes], int]:
    lines, at = list(LINES), rng.randrange(len(LINES))
    del lines[at : at + rng.randrange(1, 4)]
    return lines, at


def swap(rng: random.Random) -> tuple[list[bytes], int]:
    lines = list(LINES)
    low, high = sorted(rng.sample(range(len(LINES)), 2))
    lines[low], lines[high] = lines[high], lines[low]
    return lines, low


def insert(rng: random.Random) -> tuple[list[bytes], int]:
    lines, at = list(LINES), rng.randrange(1, len(LINES))
    lines.insert(at, rng.choice(LINES[:at]))
    return lines, at


def cut_off(rng: random.Random) -> tuple[list[bytes], int]:
    at = rng.randrange(len(LINES))
    return LINES[:at], at


@pytest.mark.parametrize("mutate", [flip, rewrite, delete, swap, insert, cut_off])
def test_every_mutation_is_located(mutate):
    rng = random.Random(mutate.__name__)
    for _ in range(MUTATIONS // 6):
        lines, index = mutate(rng)
        verdict = verdict_of(lines, SEEN)
        assert verdict.first_bad <= index <= verdict.last_bad, (verdict, index)
        assert verdict.size <= verdict.last_bad + 1
        if lines[:-1] != LINES[: max(0, len(lines) - 1)]:  # records after the change contradict it
            assert verdict.last_bad <= verdict.first_bad + 1


def test_without_a_checkpoint_seen_earlier_all_but_the_very_end_is_protected():
    rng = random.Random(7)
    for _ in range(200):
        lines, index = rewrite(rng)
        verdict = verdict_of(lines)
        if index == len(LINES) - 1:
            assert verdict.intact
        else:
            assert verdict.first_bad <= index <= verdict.last_bad <= verdict.first_bad + 1


def test_an_earlier_checkpoint_that_the_log_does_not_contain_is_noticed():
    verdict = verdict_of(LINES, Checkpoint("hsmd/east", 30, bytes(32)))
    assert (verdict.first_bad, verdict.last_bad) == (0, 29)
