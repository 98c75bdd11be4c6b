"""The conditions that a daemon reports as events, from the findings about its health: nothing else judges them."""

from __future__ import annotations

from collections.abc import Iterator

from hsmd.daemon.front.ledger.conditions import Condition
from hsmd.daemon.front.ledger.producers import LONGEST_REASON
from hsmd.protocol.messages import DaemonStatus, Finding

WITH_AN_EVENT = (
    "log-not-writable",
    "log-broken",
    "disk-full",
    "checkpoints-late",
    "store-stale",
    "store-away",
    "list-ended",
    "list-ending",
)
"""Told as `health.finding` and `health.cleared`; the others have events of their own, or pass by themselves."""


def conditions(daemon: str, status: DaemonStatus) -> Iterator[Condition]:
    """How the tokens, the log, its disk and the store stand, by a status with its findings."""
    found = {(each.condition, each.subject): each for each in status.findings}
    for token in status.tokens:
        away = found.get(("token-away", token.name))
        payload = {"daemon": daemon, "reason": token.reason[:LONGEST_REASON] if away else ""}
        yield Condition("token.away", "token.back", token.name, away is not None, payload)
    disk = {"daemon": daemon, "free_mib": status.audit_free_bytes >> 20}
    low = any(each.condition in ("disk-low", "disk-full") for each in status.findings)
    yield Condition("log.nearly-full", "", daemon, low, disk)
    for condition in WITH_AN_EVENT:
        finding = found.get((condition, ""))
        yield Condition(
            "health.finding",
            "health.cleared",
            daemon,
            finding is not None,
            _payload(daemon, condition, finding),
            about=condition,
        )


def _payload(daemon: str, condition: str, finding: Finding | None) -> dict[str, str]:
    payload = {"daemon": daemon, "condition": condition}
    if finding is not None:
        payload |= {"severity": finding.severity, "text": finding.text[:LONGEST_REASON]}
    return payload
