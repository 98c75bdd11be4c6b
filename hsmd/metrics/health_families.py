"""Health as metric families: the level, and how many findings there are of each condition. For daemon and agent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric

from hsmd.health.levels import LEVELS
from hsmd.protocol.messages import Finding


def health_families(
    prefix: str, level: str, findings: Iterable[Finding], conditions: Iterable[str]
) -> Iterator[Metric]:
    """Each of `conditions` has a series, also while there are no findings of it, so that alerts see it begin and end."""
    family = GaugeMetricFamily(f"{prefix}_health", "1 for the present level of health.", labels=["level"])
    for name in LEVELS:
        family.add_metric([name], level == name)
    yield family
    found = Counter(finding.condition for finding in findings)
    family = GaugeMetricFamily(
        f"{prefix}_health_findings", "Findings by condition; see docs/monitoring.md.", labels=["condition"]
    )
    for condition in conditions:
        family.add_metric([condition], found[condition])
    yield family
