"""What is judged of a daemon's status: each fact that makes handshakes fail is a finding, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from hsmd.health.daemon import judge
from hsmd.health.levels import level_of
from hsmd.protocol.messages import CertificateEnd, DaemonStatus, Finding, ListEnd, TokenStatus
from hsmd.protocol.messages.enumerations import CONDITION, SEVERITY, TOKEN_STATE
from tests.support.metrics import NOON, numbers_of


def status(**changes: Any) -> DaemonStatus:
    return replace(numbers_of().status, **changes)


def token(state: str, name: str = "main", **changes: Any) -> TokenStatus:
    return replace(numbers_of().status.tokens[0], name=name, state=state, **changes)


def found(status: DaemonStatus) -> list[tuple[str, str, str]]:
    return [(each.condition, each.severity, each.subject) for each in judge(status)]


def test_a_daemon_without_faults_has_no_findings() -> None:
    assert judge(status()) == []
    assert level_of([]) == "well"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"draining": True}, ("stopping", "failing", "")),
        ({"tokens": [token("away", breaker="open", reason="gone")]}, ("token-away", "failing", "main")),
        ({"tokens": [token("away")]}, ("token-away", "failing", "main")),
        ({"tokens": [token("starting")]}, ("token-starting", "failing", "main")),
        ({"tokens": [token("away", reason="another login")]}, ("token-starting", "failing", "main")),
        ({"tokens": [token("login-refused", reason="PIN")]}, ("pin-refused", "failing", "main")),
        ({"tokens": [token("ready", reason="PIN")]}, ("logins-stopped", "degraded", "main")),
        ({"audit_writable": False}, ("log-not-writable", "failing", "")),
        ({"held": ["log-broken"], "audit_warning": "x"}, ("log-broken", "failing", "")),
        ({"held": ["disk-full"], "audit_warning": "x"}, ("disk-full", "failing", "")),
        ({"audit_warning": "2 MiB are free"}, ("disk-low", "degraded", "")),
        ({"audit_uncovered_s": 61}, ("checkpoints-late", "degraded", "")),
        ({"held": ["store-stale"], "store_away_s": 4_000}, ("store-stale", "failing", "")),
        ({"store_away_s": 6}, ("store-away", "degraded", "")),
        ({"certificates": 1, "certificates_ended": 1}, ("certificate-ended", "failing", "")),
        ({"certificates": 2, "certificates_ended": 1}, ("certificate-ended", "partial", "")),
        ({"certificates": 2, "certificates_ending": 2}, ("certificate-ending", "degraded", "")),
        ({"first_list_ends": [ListEnd("root", "ended", NOON)]}, ("list-ended", "partial", "")),
        ({"first_list_ends": [ListEnd("root", "ended")]}, ("list-ended", "partial", "")),
        ({"first_list_ends": [ListEnd("root", "ending", NOON)]}, ("list-ending", "degraded", "")),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_each_fault_is_one_finding(changes: dict[str, Any], expected: tuple[str, str, str]) -> None:
    (finding,) = judge(status(**changes))
    assert (finding.condition, finding.severity, finding.subject) == expected
    assert finding.condition in CONDITION.values
    assert finding.severity in SEVERITY.values
    assert finding.text and finding.next_step
    assert level_of([finding]) == finding.severity


@pytest.mark.parametrize("state", sorted({*TOKEN_STATE.values} - {"ready"}))
def test_one_of_two_tokens_makes_a_part_of_the_handshakes_fail(state: str) -> None:
    tokens = [token(state, "first", reason="why"), token("ready", "second")]
    assert [(severity, subject) for _, severity, subject in found(status(tokens=tokens))] == [
        ("partial", "first")
    ]
    assert {severity for _, severity, _ in found(status(tokens=[token(state, "a"), token(state, "b")]))} == {
        "failing"
    }


def test_the_worst_finding_comes_first_and_decides() -> None:
    findings = judge(status(audit_uncovered_s=100, audit_writable=False, store_away_s=9))
    assert [each.severity for each in findings] == ["failing", "degraded", "degraded"]
    assert level_of(findings) == "failing"
    assert level_of(findings[1:]) == "degraded"
    assert level_of([Finding("new", "of a later release")]) == "degraded"


def test_the_first_certificates_are_named() -> None:
    ends = [CertificateEnd(f"key-{number}", NOON, "ended") for number in range(5)]
    (finding,) = judge(status(certificates=9, certificates_ended=7, first_certificate_ends=ends))
    assert "key-0 (2030-01-02), key-1 (2030-01-02), key-2 (2030-01-02) and 4 more" in finding.text
    (finding,) = judge(status(certificates=9, certificates_ended=1, first_certificate_ends=ends[:1]))
    assert finding.text == "the certificate of key-0 (2030-01-02) has ended"


def test_the_first_lists_are_named_and_current_ones_are_no_finding() -> None:
    assert judge(status(first_list_ends=[ListEnd("root", "valid", NOON)])) == []
    ends = [ListEnd("missing", "ended"), *(ListEnd(f"ca-{number}", "ended", NOON) for number in range(4))]
    (finding,) = judge(status(first_list_ends=ends))
    assert finding.text == (
        "the revocation list has ended, or is missing, of: missing, ca-0 (2030-01-02 12:00), ca-1 (2030-01-02 12:00) and 2 more"
    )


def test_reasons_are_shown_and_bounded() -> None:
    reason = "CKR_DEVICE_ERROR " * 1_000
    (finding,) = judge(status(tokens=[token("away", reason=reason)]))
    assert "CKR_DEVICE_ERROR" in finding.text
    assert len(finding.text) < 1_000
