"""Results of a check command: one per subject, with a fix for each problem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hsmd.cli.base.errors import CheckFailed
from hsmd.cli.base.output import Output


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of checking `subject`: `text` is the result; `fix` tells how to fix a problem, empty if `ok`."""

    subject: str
    ok: bool
    text: str
    fix: str = ""


def good(subject: str, text: str) -> Finding:
    """A successful check."""
    return Finding(subject, True, text)


def bad(subject: str, text: str, fix: str) -> Finding:
    """A problem, and how to fix it."""
    return Finding(subject, False, text, fix)


def report(output: Output, findings: Sequence[Finding]) -> None:
    """Print all findings; raise CheckFailed (exit code 4) if there is a problem among them."""
    ok = all(finding.ok for finding in findings)
    document = {"ok": ok, "findings": documents(findings)}
    output.show(document, lambda: "\n".join(map(line, findings)))
    if not ok:
        raise CheckFailed


def documents(findings: Sequence[Finding]) -> list[dict[str, object]]:
    """The findings for --json."""
    return [_document(finding) for finding in findings]


def _document(finding: Finding) -> dict[str, object]:
    """`mend` is the name that programs know for the fix."""
    return {"subject": finding.subject, "ok": finding.ok, "text": finding.text, "mend": finding.fix}


def line(finding: Finding) -> str:
    """A finding for people, and below it how to fix a problem."""
    mark = "ok      " if finding.ok else "PROBLEM "
    fix = f"\n          to fix it: {finding.fix}" if finding.fix else ""
    return f"{mark}  {finding.subject}: {finding.text}{fix}"
