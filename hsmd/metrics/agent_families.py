"""Metric families of an agent, under the names that docs/monitoring.md lists, which are part of our interface."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from hsmd.health.agent import CONDITIONS
from hsmd.health.levels import FAILING
from hsmd.metrics.health_families import health_families
from hsmd.protocol.messages import DaemonLink, Health


@dataclass(frozen=True, slots=True)
class AgentNumbers:
    """The present state of an agent and its counters."""

    health: Health
    connections: int
    open_requests: int
    outcomes: Mapping[str, int]
    """Key operations of local users by how they ended."""
    certificates: int
    certificates_ended: int
    certificates_ending: int
    first_end: datetime | None
    """When the first certificate ends; None without certificates."""


def agent_families(numbers: AgentNumbers) -> Iterator[Metric]:
    """All families."""
    health = numbers.health
    yield from health_families("hsmd_agent", health.level, health.findings, CONDITIONS)
    build = GaugeMetricFamily(
        "hsmd_agent_build_info", "Always 1; the version is a label.", labels=["version"]
    )
    build.add_metric([health.version], 1)
    yield build
    if health.started_at is not None:
        yield _gauge(
            "start_time_seconds", "When the agent started, Unix time.", health.started_at.timestamp()
        )
    yield from _daemons(health)
    yield _gauge("connections", "Connections of local users.", numbers.connections)
    yield _gauge("open_requests", "Key operations that have no answer yet.", numbers.open_requests)
    requests = CounterMetricFamily(
        "hsmd_agent_operations", "Key operations of local users by how they ended.", labels=["outcome"]
    )
    for outcome, count in numbers.outcomes.items():
        requests.add_metric([outcome], count)
    yield requests
    yield _gauge("keys", "Keys that the agent knows.", health.keys)
    if health.compared_s >= 0:
        yield _gauge(
            "compared_seconds",
            "How long ago the keys were compared with those of a daemon.",
            health.compared_s,
        )
    yield from _certificates(numbers)


def _daemons(health: Health) -> Iterator[Metric]:
    for name, documentation, holds in (
        ("daemon_connected", "1 if the daemon is connected.", _connected),
        ("daemon_in_use", "1 for the daemon to which requests go.", _in_use),
        ("daemon_failing", "1 if the daemon reports that handshakes fail.", _failing),
    ):
        family = GaugeMetricFamily(f"hsmd_agent_{name}", documentation, labels=["daemon"])
        for link in health.daemons:
            family.add_metric([link.address], holds(link))
        yield family


def _connected(link: DaemonLink) -> bool:
    return link.state in ("in-use", "connected")


def _in_use(link: DaemonLink) -> bool:
    return link.state == "in-use"


def _failing(link: DaemonLink) -> bool:
    return link.level == FAILING


def _certificates(numbers: AgentNumbers) -> Iterator[Metric]:
    yield _gauge("certificates", "Keys with a certificate.", numbers.certificates)
    yield _gauge("certificates_ended", "Certificates that have ended.", numbers.certificates_ended)
    yield _gauge("certificates_ending", "Certificates that end soon.", numbers.certificates_ending)
    if numbers.first_end is not None:
        yield _gauge(
            "first_certificate_not_after_timestamp_seconds",
            "When the first of the certificates ends, Unix time.",
            numbers.first_end.timestamp(),
        )


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(f"hsmd_agent_{name}", documentation, value=value)
