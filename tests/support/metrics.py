"""Invented metrics of a daemon."""

from __future__ import annotations

from datetime import UTC, datetime

from hsmd.protocol.messages import (
    DaemonStatus,
    Latency,
    ListEnd,
    Metrics,
    TokenStatus,
    UseCount,
    VaultNumbers,
    WorkerStatus,
)

NOON = datetime(2030, 1, 2, 12, tzinfo=UTC)


def numbers_of(uses: int = 2) -> Metrics:
    """Metrics with this number of series of operations."""
    workers = [WorkerStatus(11, "ready", 0, 3), WorkerStatus(12, "busy", 5, 3)]
    token = TokenStatus("main", "hsmd", "s1", "ready", 4, workers, ["ecdsa"])
    status = DaemonStatus(
        "0.1.0",
        NOON,
        False,
        7,
        [token],
        1,
        2,
        3,
        44,
        "ab" * 32,
        True,
        {"performed": 1},
        sessions=8,
        starting=9,
        audit_covered=40,
        audit_uncovered_s=6,
    )
    counts = [
        UseCount(f"web-{number}", "www", "tls13-server", "performed", number, 0, 10.0)
        for number in range(uses)
    ]
    latencies = [Latency("tls13-server", "p-256", [5, 2, 1], 0.5)]
    lists = [ListEnd("root", "valid", NOON)]
    return Metrics(status, counts, [0.001, 0.01], latencies, vault=VaultNumbers(), list_ends=lists)
