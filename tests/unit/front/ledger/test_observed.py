"""Which events follow from the findings about a daemon: the same findings that status, metrics and probes show."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from hsmd.daemon.front.ledger.observed import WITH_AN_EVENT, conditions
from hsmd.health.daemon import CONDITIONS, judge
from hsmd.protocol.messages import DaemonStatus, ListEnd
from hsmd.protocol.messages.enumerations import EVENT_KIND
from tests.support.metrics import numbers_of

OTHERS = {
    "token-away": "token.away and token.back",
    "pin-refused": "logins.stopped",
    "logins-stopped": "logins.stopped",
    "disk-low": "log.nearly-full",
    "certificate-ended": "certificate.ending",
    "certificate-ending": "certificate.ending",
    "token-starting": "passes by itself, or becomes token-away",
    "stopping": "the daemon that stops appends nothing",
}
"""What tells of the conditions that are not told as `health.finding`."""


def judged(**changes: Any) -> DaemonStatus:
    status = replace(numbers_of().status, **changes)
    status.findings = judge(status)
    return status


def holding(status: DaemonStatus) -> list[tuple[str, str, str]]:
    return [(each.begun, each.subject, each.about) for each in conditions("hsm-1", status) if each.holds]


def test_every_condition_is_told_by_some_event() -> None:
    assert {*WITH_AN_EVENT, *OTHERS} == set(CONDITIONS)
    assert {
        kind for each in conditions("hsm-1", judged()) for kind in (each.begun, each.ended) if kind
    } <= set(EVENT_KIND.values)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"audit_writable": False}, [("health.finding", "hsm-1", "log-not-writable")]),
        ({"held": ["log-broken"]}, [("health.finding", "hsm-1", "log-broken")]),
        ({"held": ["disk-full"]}, [("log.nearly-full", "hsm-1", ""), ("health.finding", "hsm-1", "disk-full")]),
        ({"audit_warning": "low"}, [("log.nearly-full", "hsm-1", "")]),
        ({"audit_uncovered_s": 99}, [("health.finding", "hsm-1", "checkpoints-late")]),
        ({"store_away_s": 9}, [("health.finding", "hsm-1", "store-away")]),
        ({"held": ["store-stale"]}, [("health.finding", "hsm-1", "store-stale")]),
        ({"first_list_ends": [ListEnd("root", "ended")]}, [("health.finding", "hsm-1", "list-ended")]),
    ],
)  # fmt: skip
def test_a_finding_is_a_condition(changes: dict[str, Any], expected: list[tuple[str, str, str]]) -> None:
    assert holding(judged(**changes)) == expected


def test_a_token_is_away_when_the_status_says_so() -> None:
    (token,) = numbers_of().status.tokens
    away = replace(token, state="away", breaker="open", reason="gone")
    (found,) = [each for each in conditions("hsm-1", judged(tokens=[away])) if each.holds]
    assert (found.begun, found.subject, found.payload) == (
        "token.away",
        "main",
        {"daemon": "hsm-1", "reason": "gone"},
    )
    refused = replace(token, state="login-refused", reason="PIN")
    assert holding(judged(tokens=[refused])) == []
