"""The severities of findings, and the level of health that follows from them."""

from __future__ import annotations

from collections.abc import Iterable

from hsmd.protocol.messages import Finding

WELL = "well"
DEGRADED = "degraded"
PARTIAL = "partial"
FAILING = "failing"
LEVELS = (WELL, DEGRADED, PARTIAL, FAILING)
"""From the best to the worst; all but the first are severities of findings, too."""


def level_of(findings: Iterable[Finding]) -> str:
    """The worst severity, `well` without findings. A severity that this release does not know counts as degraded."""
    return LEVELS[max(map(_rank, findings), default=0)]


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first; of the same severity in the order given."""
    return sorted(findings, key=lambda finding: -_rank(finding))


def _rank(finding: Finding) -> int:
    return LEVELS.index(finding.severity) if finding.severity in LEVELS else LEVELS.index(DEGRADED)
