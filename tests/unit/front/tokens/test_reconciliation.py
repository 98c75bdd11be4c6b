"""Reconciliation: the comparison of the keys in the store with those in a token."""

from __future__ import annotations

from datetime import UTC, datetime

from hsmd.daemon.front.tokens.reconciliation import Comparison
from hsmd.daemon.ipc.worker_messages import NO_PRIVATE_KEY, KeyDescription

KEY = b"\1" * 32


def test_differences_between_store_and_token_are_found() -> None:
    def described(digest: bytes, warning: str = "", problem: str = "") -> KeyDescription:
        return KeyDescription(digest.hex(), "p-256", b"", ["tls-server"], "01", "", [warning], problem)

    at = datetime.now(UTC)
    there, empty, foreign = b"\3" * 32, b"\4" * 32, b"\5" * 32
    stored = {KEY: "gone", there: "there", empty: "empty"}
    comparison = Comparison()
    comparison.add([described(there, "extractable"), described(empty, problem=NO_PRIVATE_KEY)])
    comparison.add([described(foreign)])
    found = comparison.with_stored(stored, stored, at)
    assert found.missing == ("empty", "gone")
    assert found.unknown == (foreign.hex(),)
    assert found.at == at


def test_keys_that_are_made_or_destroyed_during_the_search_are_no_differences() -> None:
    def described(digest: bytes) -> KeyDescription:
        return KeyDescription(digest.hex(), "p-256", b"", ["tls-server"], "01", "")

    made, made_unseen, destroyed, destroyed_unseen = (bytes([number]) * 32 for number in range(4))
    comparison = Comparison()
    comparison.add([described(made), described(destroyed)])
    before = {destroyed: "destroyed", destroyed_unseen: "destroyed-unseen"}
    after = {made: "made", made_unseen: "made-unseen"}
    found = comparison.with_stored(before, after, datetime.now(UTC))
    assert (found.missing, found.unknown) == ((), ())
