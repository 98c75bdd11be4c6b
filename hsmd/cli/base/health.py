"""Health as commands show it: one line that says whether handshakes work, the findings with their fixes, and the exit code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hsmd.cli.base.errors import CheckFailed, Exit
from hsmd.cli.base.output import fields
from hsmd.health.levels import DEGRADED, FAILING, PARTIAL, WELL
from hsmd.protocol.messages import Finding

if TYPE_CHECKING:
    from rich.console import RenderableType

_HEADS = {
    WELL: "Handshakes work.",
    DEGRADED: "Handshakes work, but look at this:",
    PARTIAL: "SOME HANDSHAKES FAIL:",
    FAILING: "HANDSHAKES FAIL:",
}
_OTHER_HEADS = {
    WELL: "The daemon works.",
    DEGRADED: "The daemon works, and its operators should look at it.",
    PARTIAL: "THE DAEMON WORKS IN PART: some handshakes of its front ends fail.",
    FAILING: "THE DAEMON DOES NOT DO ITS WORK: handshakes of its front ends fail.",
}
"""For clients that make no handshakes, such as owners and checkers."""
_FEET = {
    DEGRADED: "Handshakes work, but look at the first lines.",
    PARTIAL: "SOME HANDSHAKES FAIL: see the first lines.",
    FAILING: "HANDSHAKES FAIL: see the first lines.",
}
_CODES = {FAILING: Exit.PROBLEMS, PARTIAL: Exit.PROBLEMS, DEGRADED: Exit.DEGRADED}


def health_text(
    level: str, findings: Sequence[Finding], *, handshakes: bool = True
) -> tuple[RenderableType | str, ...]:
    """The first lines of a status; without `handshakes` for a client that makes none."""
    rows = []
    for finding in findings:
        rows.append((finding.severity, finding.text or finding.condition))
        rows.append(("", f"next: {finding.next_step}" if finding.next_step else ""))
    head = (_HEADS if handshakes else _OTHER_HEADS).get(level, f"Health: {level}")
    return (head, fields(rows), "") if rows else (head, "")


def health_foot(level: str) -> tuple[str, ...]:
    """The last lines of a status whose first ones may have left the screen; none if all is well."""
    return ("", _FEET[level]) if level in _FEET else ()


def health_line(level: str, findings: Sequence[Finding]) -> str:
    """The same in one line, without the fixes."""
    head = _HEADS.get(level, level).rstrip(".:")
    texts = "; ".join(finding.text or finding.condition for finding in findings)
    return f"{head}: {texts}" if texts else head


def end(level: str) -> None:
    """End the command with the exit code of this level, after everything was printed. Raises CheckFailed unless all is well."""
    code = _CODES.get(level)
    if code is not None:
        raise CheckFailed(code)
