"""Results of a check command: one per subject, with a fix for each problem, and the exit code that follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hsmd.cli.base.health import end
from hsmd.cli.base.output import Output
from hsmd.health.levels import DEGRADED, FAILING, WELL


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of checking `subject`: `text` is the result; `fix` tells how to fix a problem, empty if `ok`."""

    subject: str
    ok: bool
    text: str
    fix: str = ""
    works: bool = False
    """Whether handshakes work, although this is a problem."""

    @property
    def severity(self) -> str:
        """What it is for `hsmd agent status`."""
        return WELL if self.ok else DEGRADED if self.works else FAILING


def good(subject: str, text: str) -> Finding:
    """A successful check."""
    return Finding(subject, True, text)


def bad(subject: str, text: str, fix: str) -> Finding:
    """A problem with which handshakes fail, and how to fix it."""
    return Finding(subject, False, text, fix)


def warning(subject: str, text: str, fix: str) -> Finding:
    """A problem with which handshakes still work, and how to fix it."""
    return Finding(subject, False, text, fix, works=True)


def report(output: Output, findings: Sequence[Finding]) -> None:
    """Print all findings; raise CheckFailed as `conclude` does."""
    document = {"ok": all(finding.ok for finding in findings), "findings": documents(findings)}
    output.show(document, lambda: "\n".join(map(line, findings)))
    conclude(findings)


def conclude(findings: Sequence[Finding]) -> None:
    """Raise CheckFailed if there is a problem: with exit code 4, or 5 if handshakes work with all of them."""
    severities = {finding.severity for finding in findings}
    end(next((level for level in (FAILING, DEGRADED) if level in severities), WELL))


def documents(findings: Sequence[Finding]) -> list[dict[str, object]]:
    """The findings for --json."""
    return [_document(finding) for finding in findings]


def _document(finding: Finding) -> dict[str, object]:
    """`mend` is the name that programs know for the fix."""
    return {
        "subject": finding.subject,
        "ok": finding.ok,
        "severity": finding.severity,
        "text": finding.text,
        "mend": finding.fix,
    }


def line(finding: Finding) -> str:
    """A finding for people, and below it how to fix a problem."""
    mark = {WELL: "ok      ", DEGRADED: "WARNING "}.get(finding.severity, "PROBLEM ")
    fix = f"\n          to fix it: {finding.fix}" if finding.fix else ""
    return f"{mark}  {finding.subject}: {finding.text}{fix}"
