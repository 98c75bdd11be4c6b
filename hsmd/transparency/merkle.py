"""The Merkle tree of RFC 9162, section 2.1, over leaf hashes: its root, proofs about it and their verification.

All hashes are SHA-256, 32 bytes. Leaf hashes are made by `lines.leaf_hash`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

from hsmd.errors import ProofInvalid

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()
"""The root of a tree without leaves (RFC 9162, section 2.1.1)."""

NodeReader = Callable[[int, int], bytes]
"""`nodes(level, position)`: the hash of the complete subtree of 2**level leaves that begins at leaf position * 2**level."""


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right): the hash of an inner node."""
    return sha256(b"\1" + left + right).digest()


class Frontier:
    """A growing tree, reduced to what appending leaves and computing its root need.

    `peaks` are the hashes of the complete subtrees into which `size` leaves are divided, the largest (leftmost) first: one
    for each bit that is set in `size`.
    """

    __slots__ = ("_peaks", "_size")

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        if size < 0 or len(peaks) != size.bit_count() or any(len(peak) != HASH_BYTES for peak in peaks):
            raise ValueError(f"{len(peaks)} peaks cannot be the frontier of {size} leaves")
        self._size = size
        self._peaks = list(peaks)

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self._size

    @property
    def peaks(self) -> tuple[bytes, ...]:
        """Hashes of the complete subtrees, the largest first."""
        return tuple(self._peaks)

    def append(self, leaf_hashes: Iterable[bytes]) -> None:
        """Append leaves."""
        peaks = self._peaks
        size = self._size
        for node in leaf_hashes:
            carry = size  # as in binary addition: every trailing one is a peak that the new node completes
            while carry & 1:
                node = sha256(b"\1" + peaks.pop() + node).digest()
                carry >>= 1
            peaks.append(node)
            size += 1
        self._size = size

    def root(self) -> bytes:
        """The root of the current tree."""
        return _fold(self._peaks)


def root_at(size: int, nodes: NodeReader) -> bytes:
    """The root that the tree had when it had `size` leaves."""
    return _range_root(0, size, nodes)


def inclusion_proof(index: int, size: int, nodes: NodeReader) -> list[bytes]:
    """The proof that leaf `index` is in the tree of `size` leaves: PATH(index, D_size) of section 2.1.3.1.

    Raises ValueError unless 0 <= index < size.
    """
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    proof = []
    begin, end = 0, size
    while end - begin > 1:
        split = begin + _largest_power_below(end - begin)
        if index < split:
            proof.append(_range_root(split, end, nodes))
            end = split
        else:
            proof.append(_range_root(begin, split, nodes))
            begin = split
    proof.reverse()
    return proof


def consistency_proof(first: int, second: int, nodes: NodeReader) -> list[bytes]:
    """The proof that the tree of `second` leaves continues that of `first`: PROOF(first, D_second) of section 2.1.4.1.

    It is empty for `first` = 0, which every tree continues. Raises ValueError unless 0 <= first <= second.
    """
    if not 0 <= first <= second:
        raise ValueError(f"a tree of {second} leaves does not continue one of {first}")
    if first in (0, second):
        return []
    proof = []
    begin, end = 0, second
    while end != first:  # SUBPROOF: the part that holds leaf first - 1, until it ends just there
        split = begin + _largest_power_below(end - begin)
        if first <= split:
            proof.append(_range_root(split, end, nodes))
            end = split
        else:
            proof.append(_range_root(begin, split, nodes))
            begin = split
    if begin:  # the verifier knows the root of the first tree only, not of its parts
        proof.append(_range_root(begin, end, nodes))
    proof.reverse()
    return proof


def verify_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Check that `leaf` is the hash of leaf `index` in the tree of `size` leaves with this `root` (section 2.1.3.2).

    Raises ProofInvalid if it is not.
    """
    if not 0 <= index < size:
        raise ProofInvalid(f"a tree of {size} records has no record {index}")
    _require_hashes((leaf, root, *proof))
    place, last = index, size - 1
    node = leaf
    for other in proof:
        if last == 0:
            raise ProofInvalid("the inclusion proof is too long")
        if place & 1 or place == last:
            node = node_hash(other, node)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            node = node_hash(node, other)
        place, last = place >> 1, last >> 1
    if last or node != root:
        raise ProofInvalid(f"the proof does not show that record {index} is in the log of {size} records")


def verify_consistency(
    first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the tree of `second` leaves continues that of `first` leaves (section 2.1.4.2).

    Raises ProofInvalid if it is not.
    """
    if not 0 <= first <= second:
        raise ProofInvalid(f"the log has {second} records; it had {first}")
    _require_hashes((first_root, second_root, *proof))
    if first in (0, second):
        known = EMPTY_ROOT if first == 0 else second_root
        if proof or first_root != known or (second == 0 and second_root != EMPTY_ROOT):
            raise ProofInvalid(f"the log of {second} records does not continue that of {first}")
        return
    nodes = list(proof)
    if first & (first - 1) == 0:  # a complete tree is a node of the larger one
        nodes.insert(0, first_root)
    if not nodes or _roots_of(first, second, nodes) != (first_root, second_root):
        raise ProofInvalid(f"the log of {second} records does not continue that of {first}")


def _roots_of(first: int, second: int, nodes: list[bytes]) -> tuple[bytes, bytes] | None:
    """The roots of both trees that follow from the nodes of a consistency proof; None for a wrong number of nodes."""
    place, last = first - 1, second - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    older = newer = nodes[0]
    for other in nodes[1:]:
        if last == 0:
            return None
        if place & 1 or place == last:
            older = node_hash(other, older)
            newer = node_hash(other, newer)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            newer = node_hash(newer, other)
        place, last = place >> 1, last >> 1
    return (older, newer) if last == 0 else None


def _range_root(begin: int, end: int, nodes: NodeReader) -> bytes:
    """The root over leaves [begin, end), where `begin` is a multiple of the size of the largest complete subtree in it."""
    peaks = []
    while begin < end:
        level = (end - begin).bit_length() - 1
        peaks.append(nodes(level, begin >> level))
        begin += 1 << level
    return _fold(peaks)


def _fold(peaks: Sequence[bytes]) -> bytes:
    if not peaks:
        return EMPTY_ROOT
    root = peaks[-1]
    for peak in reversed(peaks[:-1]):
        root = node_hash(peak, root)
    return root


def _largest_power_below(size: int) -> int:
    """The largest power of two that is smaller than `size`, the `k` of section 2.1.1."""
    return 1 << ((size - 1).bit_length() - 1)


def _require_hashes(values: Iterable[bytes]) -> None:
    if any(len(value) != HASH_BYTES for value in values):
        raise ProofInvalid(f"a proof holds hashes of {HASH_BYTES} bytes")
