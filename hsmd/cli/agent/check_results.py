"""What a check command found: one finding per thing looked at, with the way to mend it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hsmd.cli.base.errors import CheckFailed
from hsmd.cli.base.output import Output


@dataclass(frozen=True, slots=True)
class Finding:
    """`subject` was looked at; `text` is what was seen; `mend` is empty unless `ok` is false."""

    subject: str
    ok: bool
    text: str
    mend: str = ""


def good(subject: str, text: str) -> Finding:
    """All is well."""
    return Finding(subject, True, text)


def bad(subject: str, text: str, mend: str) -> Finding:
    """A problem, and what to do about it."""
    return Finding(subject, False, text, mend)


def report(output: Output, findings: Sequence[Finding]) -> None:
    """Prints all findings; raises CheckFailed (exit code 4) if there is a problem among them."""
    ok = all(finding.ok for finding in findings)
    output.show({"ok": ok, "findings": findings}, lambda: "\n".join(_line(finding) for finding in findings))
    if not ok:
        raise CheckFailed


def _line(finding: Finding) -> str:
    mark = "ok      " if finding.ok else "PROBLEM "
    mend = f"\n          to mend it: {finding.mend}" if finding.mend else ""
    return f"{mark}  {finding.subject}: {finding.text}{mend}"
