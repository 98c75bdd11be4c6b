"""What is judged of an agent: each fact that makes handshakes on its host fail is a finding, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hsmd.health.agent import CONDITIONS, AgentFacts, CertificateFacts, DaemonFacts, judge, severity_of
from hsmd.health.levels import level_of
from hsmd.protocol.messages import Finding
from hsmd.protocol.messages.enumerations import CONDITION, SEVERITY

NEAR, FAR = DaemonFacts("10.9.0.1:7440", True, level="well"), DaemonFacts("10.9.0.3:7440", True)
AWAY = replace(FAR, connected=False, problem="10.9.0.3:7440 cannot be reached: refused")
REFUSED = replace(FAR, connected=False, refused=True, problem="the log is not the one seen before")
TOKENLESS = replace(NEAR, level="failing", findings=(Finding("token-away", "failing", "main"),))
FULL = replace(NEAR, level="failing", findings=(Finding("disk-full", "failing"),))
WELL = AgentFacts("web1", (NEAR, FAR), 2, frozenset({"main"}))


def test_an_agent_without_faults_has_no_findings() -> None:
    assert judge(WELL) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"stopping": True}, {("stopping", "failing", "")}),
        ({"daemons": ()}, {("no-daemon", "failing", "")}),
        ({"daemons": (AWAY,)}, {("no-daemon", "failing", "")}),
        ({"daemons": (NEAR, AWAY)}, {("daemon-away", "degraded", AWAY.address)}),
        ({"daemons": (NEAR, REFUSED)}, {("log-refused", "degraded", REFUSED.address)}),
        ({"daemons": (REFUSED,)}, {("no-daemon", "failing", ""), ("log-refused", "failing", REFUSED.address)}),
        ({"daemons": (FULL,)}, {("daemon-failing", "failing", FULL.address)}),
        ({"daemons": (FULL, FAR)}, {("daemon-failing", "degraded", FULL.address)}),
        ({"daemons": (TOKENLESS,)}, {("daemon-failing", "failing", TOKENLESS.address)}),
        ({"daemons": (TOKENLESS,), "tokens": frozenset({"main", "b"})}, {("daemon-failing", "partial", NEAR.address)}),
        ({"keys": 0}, {("no-key", "failing", "")}),
        ({"keys": 0, "complete": False}, {("no-key", "failing", "")}),
        ({"not_granted": ("www",)}, {("key-not-granted", "partial", "")}),
        ({"cut": True}, {("keys-left-out", "partial", "")}),
        ({"certificates": CertificateFacts(2, ended=("www",))}, {("certificate-ended", "partial", "")}),
        ({"certificates": CertificateFacts(1, ended=("www",))}, {("certificate-ended", "failing", "")}),
        ({"certificates": CertificateFacts(1, ending=("www",))}, {("certificate-ending", "degraded", "")}),
    ],
)  # fmt: skip
def test_each_fault_is_a_finding(changes: dict[str, Any], expected: set[tuple[str, str, str]]) -> None:
    findings = judge(replace(WELL, **changes))
    assert {(each.condition, each.severity, each.subject) for each in findings} == expected
    for each in findings:
        assert each.condition in CONDITION.values and each.condition in CONDITIONS
        assert each.severity in SEVERITY.values
        assert each.text and each.next_step
    assert level_of(findings) == max(
        (severity for _, severity, _ in expected), key="degraded partial failing".find
    )


def test_all_reasons_of_daemons_that_are_away_are_told() -> None:
    other = replace(
        AWAY, address="10.9.0.1:7440", problem="10.9.0.1:7440 does not accept the identity of web1"
    )
    (finding,) = judge(replace(WELL, daemons=(other, AWAY)))
    assert other.problem in finding.text and AWAY.problem in finding.text


@pytest.mark.parametrize(
    ("findings", "severity"),
    [
        ((), "well"),
        ((Finding("certificate-ended", "failing"),), "well"),
        ((Finding("disk-low", "degraded"),), "well"),
        ((Finding("token-away", "partial", "of-others"),), "well"),
        ((Finding("token-away", "partial", "main"),), "failing"),
        ((Finding("log-not-writable", "failing"),), "failing"),
        ((Finding("of a later release", "failing"),), "failing"),
    ],
)
def test_only_what_concerns_the_keys_of_the_agent_counts(
    findings: tuple[Finding, ...], severity: str
) -> None:
    assert severity_of(replace(NEAR, findings=findings), frozenset({"main"})) == severity
