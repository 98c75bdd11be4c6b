"""Reconciliation: the comparison of the keys in the store with those in a token."""

from __future__ import annotations

from datetime import UTC, datetime

from hsmd.daemon.front.tokens.reconciliation import compare
from hsmd.daemon.ipc.worker_messages import NO_PRIVATE_KEY, KeyDescription

KEY = b"\1" * 32


def test_differences_between_store_and_token_are_found() -> None:
    def described(digest: bytes, warning: str = "", problem: str = "") -> KeyDescription:
        return KeyDescription(digest.hex(), "p-256", b"", ["tls-server"], "01", "", [warning], problem)

    at = datetime.now(UTC)
    there, empty, foreign = b"\3" * 32, b"\4" * 32, b"\5" * 32
    found = compare(
        {KEY: "gone", there: "there", empty: "empty"},
        [described(there, "extractable"), described(empty, problem=NO_PRIVATE_KEY), described(foreign)],
        at,
    )
    assert found.missing == ("empty", "gone")
    assert found.unknown == (foreign.hex(),)
    assert found.at == at
