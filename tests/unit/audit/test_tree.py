"""The tree of the log: roots and proofs equal those of the definition, also after its files were damaged or removed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest

from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.audit.tree import LogTree
from hsmd.daemon.audit.tree_files import TreeFiles
from hsmd.transparency.lines import leaf_hash
from hsmd.transparency.merkle import HASH_BYTES, Frontier, verify_consistency, verify_inclusion

LEAVES = [sha256(str(number).encode()).digest() for number in range(70_000)]


def root_of(size: int) -> bytes:
    tree = Frontier()
    tree.append(LEAVES[:size])
    return tree.root()


@pytest.fixture
def files(tmp_path: Path) -> Iterator[TreeFiles]:
    files = TreeFiles(tmp_path / "tree")
    yield files
    files.close()


def test_batches_of_any_size_produce_the_same_tree(files: TreeFiles) -> None:
    sizes = random.Random(7)
    while files.size < len(LEAVES):
        files.append(LEAVES[files.size : files.size + sizes.choice([0, 1, 3, 255, 256, 257, 5_000])])
        assert files.root() == root_of(files.size)


def test_proofs_over_three_levels_of_files_verify(files: TreeFiles) -> None:
    files.append(LEAVES)
    some = random.Random(11)
    for _ in range(50):
        second = some.randint(1, len(LEAVES))
        first, index = some.randint(1, second), some.randrange(second)
        verify_consistency(first, second, root_of(first), root_of(second), files.consistency(first, second))
        verify_inclusion(index, second, LEAVES[index], files.inclusion(index, second), root_of(second))


@pytest.mark.parametrize("level", [0, 8, 16])
@pytest.mark.parametrize("cut", [1, HASH_BYTES, 17 * HASH_BYTES + 5])
def test_files_left_incomplete_by_a_crash_are_rewritten(tmp_path: Path, level: int, cut: int) -> None:
    first = TreeFiles(tmp_path / "tree")
    first.append(LEAVES)
    first.close()
    path = tmp_path / "tree" / str(level)
    data = path.read_bytes()
    path.write_bytes(data[: max(0, len(data) - cut)])
    again = TreeFiles(tmp_path / "tree")
    assert again.root() == root_of(again.size)
    again.append(LEAVES[again.size :])
    assert (again.size, again.root()) == (len(LEAVES), root_of(len(LEAVES)))
    assert path.read_bytes() == data
    again.close()


# --- with a log ---


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    return AuditLog.open(tmp_path, clock=lambda: datetime(2026, 1, 2, tzinfo=UTC))


def write(log: AuditLog, count: int) -> None:
    for number in range(count):
        log.event("test.event", "", number=number)
    log.commit()


def root_of_log(log: AuditLog) -> bytes:
    tree = Frontier()
    tree.append(leaf_hash(line.encode()) for at in range(0, log.size, 500) for line in log.read(at, 500))
    return tree.root()


def grown(log: AuditLog) -> LogTree:
    tree = log.tree()
    tree.grow()
    return tree


async def test_the_tree_follows_the_log(log: AuditLog) -> None:
    tree = log.tree()
    for count in (0, 1, 300, 5_000):
        write(log, count)
        tree.grow()
        assert (tree.size, tree.root()) == (log.size, root_of_log(log))
    tree.close()
    write(log, 10)
    again = grown(log)
    assert (again.size, again.root()) == (log.size, root_of_log(log))
    again.close()
    await log.close()


@pytest.mark.parametrize(
    "damage", ["last leaf", "a leaf that a checkpoint covers", "files of a longer log", "no files"]
)
async def test_files_that_do_not_match_the_log_are_rebuilt(
    log: AuditLog, tmp_path: Path, damage: str
) -> None:
    write(log, 400)
    tree = grown(log)
    log.event(
        "log.checkpoint", "", origin="hsmd/x", size=tree.size, root=tree.root().hex(), signature="AAAAAAE="
    )
    log.commit()
    tree.grow()
    tree.close()
    leaves = tmp_path / "tree" / "0"
    data = bytearray(leaves.read_bytes())
    if damage == "last leaf":
        data[-1] ^= 1
    elif damage == "a leaf that a checkpoint covers":
        data[390 * HASH_BYTES] ^= 1
    elif damage == "files of a longer log":
        data += bytes(HASH_BYTES)
    else:
        data.clear()
    leaves.write_bytes(data)
    again = grown(log)
    assert (again.size, again.root()) == (log.size, root_of_log(log))
    again.close()
    await log.close()
