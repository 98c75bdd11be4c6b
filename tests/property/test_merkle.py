"""The Merkle tree against the recursive definitions of RFC 9162, section 2.1, and against the vectors of Certificate Transparency."""

from __future__ import annotations

import time
from functools import cache
from hashlib import sha256

import pytest
from hypothesis import given, strategies as st

from hsmd.errors import ProofInvalid
from hsmd.transparency.lines import leaf_hash
from hsmd.transparency.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_proof,
    inclusion_proof,
    node_hash,
    root_at,
    verify_consistency,
    verify_inclusion,
)

SIZES = 70
LEAVES = [leaf_hash(b"%d" % number) for number in range(SIZES)]

# Inputs and roots from the tests of the Certificate Transparency projects.
CT_INPUTS = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
]
CT_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def split(count: int) -> int:
    power = 1
    while power * 2 < count:
        power *= 2
    return power


@cache
def mth(begin: int, end: int) -> bytes:
    """MTH(D[begin:end]), section 2.1.1."""
    if end - begin == 0:
        return sha256(b"").digest()
    if end - begin == 1:
        return LEAVES[begin]
    middle = begin + split(end - begin)
    return sha256(b"\1" + mth(begin, middle) + mth(middle, end)).digest()


def path(index: int, begin: int, end: int) -> list[bytes]:
    """PATH(m, D[begin:end]), section 2.1.3.1."""
    if end - begin == 1:
        return []
    middle = begin + split(end - begin)
    if index < middle - begin:
        return [*path(index, begin, middle), mth(middle, end)]
    return [*path(index - (middle - begin), middle, end), mth(begin, middle)]


def subproof(first: int, begin: int, end: int, whole: bool) -> list[bytes]:
    """SUBPROOF(m, D[begin:end], b), section 2.1.4.1."""
    if first == end - begin:
        return [] if whole else [mth(begin, end)]
    middle = begin + split(end - begin)
    if first <= middle - begin:
        return [*subproof(first, begin, middle, whole), mth(middle, end)]
    return [*subproof(first - (middle - begin), middle, end, False), mth(begin, middle)]


def nodes(level: int, position: int) -> bytes:
    """The hash of a complete subtree, the only nodes that a daemon stores."""
    assert (position + 1) << level <= SIZES
    return mth(position << level, (position + 1) << level)


def frontier_of(size: int) -> Frontier:
    frontier = Frontier()
    frontier.append(LEAVES[:size])
    return frontier


def mutations(proof: list[bytes]) -> list[list[bytes]]:
    """Proofs that differ from `proof` by one flipped bit, or by one added, missing, repeated or moved hash."""
    changed = []
    for at, node in enumerate(proof):
        flipped = bytes([node[0] ^ 0x80]) + node[1:]
        changed += [[*proof[:at], flipped, *proof[at + 1 :]], [*proof[:at], *proof[at + 1 :]]]
        changed += [[*proof[:at], node, *proof[at:]]]
    swaps = [[*proof[:at], proof[at + 1], proof[at], *proof[at + 2 :]] for at in range(len(proof) - 1)]
    longer = [[*proof, EMPTY_ROOT], [EMPTY_ROOT, *proof], [*proof, b""], [*proof, b"short"]]
    return [*changed, *swaps, *longer]


def test_the_vectors_of_certificate_transparency() -> None:
    frontier = Frontier()
    roots = [frontier.root().hex()]
    for text in CT_INPUTS:
        frontier.append([leaf_hash(bytes.fromhex(text))])
        roots.append(frontier.root().hex())
    assert roots == CT_ROOTS


@pytest.mark.parametrize("size", range(SIZES + 1))
def test_roots_conform_to_the_definition(size: int) -> None:
    frontier = frontier_of(size)
    assert frontier.root() == root_at(size, nodes) == mth(0, size)
    assert frontier.size == size
    assert Frontier(size, frontier.peaks).root() == frontier.root()


@pytest.mark.parametrize("size", range(1, SIZES + 1))
def test_only_inclusion_proofs_of_the_definition_verify(size: int) -> None:
    root = mth(0, size)
    for index in range(size):
        proof = inclusion_proof(index, size, nodes)
        assert proof == path(index, 0, size)
        verify_inclusion(index, size, LEAVES[index], proof, root)
        wrong = [(index, size, LEAVES[index], mutated, root) for mutated in mutations(proof)]
        wrong += [(other, size, LEAVES[index], proof, root) for other in (index - 1, index + 1, size)]
        wrong += [(index, size, LEAVES[index - 1] if size > 1 else EMPTY_ROOT, proof, root)]
        wrong += [(index, size, LEAVES[index], proof, EMPTY_ROOT)]
        for arguments in wrong:
            with pytest.raises(ProofInvalid):
                verify_inclusion(*arguments)


@pytest.mark.parametrize("second", range(SIZES + 1))
def test_only_consistency_proofs_of_the_definition_verify(second: int) -> None:
    for first in range(second + 1):
        proof = consistency_proof(first, second, nodes)
        assert proof == (subproof(first, 0, second, True) if first else [])
        roots = mth(0, first), mth(0, second)
        verify_consistency(first, second, *roots, proof)
        wrong = [(first, second, *roots, mutated) for mutated in mutations(proof)]
        wrong += [(first, second, sha256(b"x").digest(), roots[1], proof)]
        if first:
            wrong += [
                (first, second, roots[0], sha256(b"x").digest(), proof),
                (second + 1, second, *roots, proof),
            ]
            wrong += [(first - 1, second, *roots, proof)]
        for arguments in wrong:
            with pytest.raises(ProofInvalid):
                verify_consistency(*arguments)


@given(st.integers(0, SIZES), st.integers(0, SIZES), st.integers(0, SIZES - 1))
def test_a_rewritten_leaf_is_never_consistent(first: int, second: int, changed: int) -> None:
    """No proof from a daemon's tree makes it consistent with the root of another history."""
    first, second = sorted((first, second))
    if changed >= first:
        return
    forged = Frontier()
    forged.append([*LEAVES[:changed], leaf_hash(b"forged"), *LEAVES[changed + 1 : second]])
    with pytest.raises(ProofInvalid):
        verify_consistency(
            first, second, mth(0, first), forged.root(), consistency_proof(first, second, nodes)
        )


@given(st.lists(st.integers(0, 20), max_size=12))
def test_a_frontier_grows_in_any_portions(portions: list[int]) -> None:
    frontier, size = Frontier(), 0
    for portion in portions:
        more = LEAVES[size : size + portion]
        frontier.append(iter(more))
        size += len(more)
        frontier = Frontier(frontier.size, frontier.peaks)
        assert frontier.root() == mth(0, size)


@given(st.integers(-1, 80), st.lists(st.binary(min_size=31, max_size=33), max_size=8))
def test_peaks_fit_their_size(size: int, peaks: list[bytes]) -> None:
    fits = size >= 0 and bin(size).count("1") == len(peaks) and all(len(peak) == 32 for peak in peaks)
    if fits:
        assert Frontier(size, peaks).peaks == tuple(peaks)
    else:
        with pytest.raises(ValueError):
            Frontier(size, peaks)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (-1, 3), (3, 3)])
def test_no_inclusion_proof_for_a_missing_leaf(index: int, size: int) -> None:
    with pytest.raises(ValueError):
        inclusion_proof(index, size, nodes)


@pytest.mark.parametrize(("first", "second"), [(-1, 3), (4, 3)])
def test_no_consistency_proof_for_a_smaller_tree(first: int, second: int) -> None:
    with pytest.raises(ValueError):
        consistency_proof(first, second, nodes)


def test_node_hashes_differ_from_leaf_hashes() -> None:
    left, right = LEAVES[:2]
    assert node_hash(left, right) == sha256(b"\1" + left + right).digest() != leaf_hash(left + right)


def test_appending_a_hundred_thousand_leaves_is_fast() -> None:
    frontier = Frontier()
    begun = time.perf_counter()
    frontier.append(LEAVES[0] for _ in range(100_000))
    assert time.perf_counter() - begun < 2
    assert frontier.size == 100_000
