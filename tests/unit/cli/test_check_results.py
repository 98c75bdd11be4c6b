"""The results of `hsmd agent check`: severities, exit codes and lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from hsmd.cli.agent import check_agent
from hsmd.cli.agent.check_results import Finding, bad, conclude, documents, good, line, warning
from hsmd.cli.base.errors import CheckFailed
from hsmd.protocol.messages import Identity, UpstreamDaemon

GOOD, WARNING, BAD = (
    good("agent", "runs"),
    warning("daemon", "away", "start it"),
    bad("grant", "none", "add it"),
)


def code_of(findings: Sequence[Finding]) -> int:
    try:
        conclude(findings)
    except CheckFailed as error:
        return int(error.code)
    return 0


@pytest.mark.parametrize(
    ("findings", "code"),
    [([], 0), ([GOOD], 0), ([GOOD, WARNING], 5), ([WARNING, BAD], 4), ([BAD, WARNING, GOOD], 4)],
)
def test_the_worst_finding_gives_the_exit_code(findings: list[Finding], code: int) -> None:
    assert code_of(findings) == code


def test_lines_and_documents_tell_how_bad_it_is() -> None:
    assert [line(each).split(maxsplit=1)[0] for each in (GOOD, WARNING, BAD)] == ["ok", "WARNING", "PROBLEM"]
    told = [(each["ok"], each["severity"]) for each in documents([GOOD, WARNING, BAD])]
    assert told == [(True, "well"), (False, "degraded"), (False, "failing")]


@pytest.mark.parametrize(("serving", "severity"), [("10.9.0.1:7440", "degraded"), ("", "failing")])
def test_a_refused_log_matters_less_while_another_daemon_serves(
    monkeypatch: pytest.MonkeyPatch, serving: str, severity: str
) -> None:
    daemons = [
        UpstreamDaemon("10.9.0.1:7440", connected=bool(serving)),
        UpstreamDaemon("10.9.0.3:7440", connected=False),
    ]
    fields: dict[str, Any] = {"daemons": daemons, "problems": ["the log of 10.9.0.3:7440 was rolled back"]}
    identity = Identity("web1", "agent", "uid:0", serving, **fields)
    monkeypatch.setattr(check_agent, "_ask", lambda _socket, _request: identity)
    findings, _ = check_agent._daemon(check_agent.Path("/run/none"))
    assert {each.subject: each.severity for each in findings}["audit log"] == severity
