"""Metric families: the daemon's counters under the names that docs/monitoring.md lists, which are part of our interface."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from hsmd.envelopes.vault.answers import Verdict
from hsmd.health.daemon import CONDITIONS
from hsmd.metrics.health_families import health_families
from hsmd.protocol.messages import DaemonStatus, Metrics, TokenStatus, VaultNumbers
from hsmd.protocol.messages.enumerations import BREAKER_STATE, TOKEN_STATE, WORKER_STATE


def families(numbers: Metrics) -> Iterator[Metric]:
    """All families; those with the most series come last."""
    status = numbers.status
    yield from health_families("hsmd", status.level, status.findings, CONDITIONS)
    yield from _daemon(numbers.status)
    yield from _audit(numbers.status)
    yield from _tokens(numbers.status.tokens)
    yield from _certificates(numbers)
    if numbers.vault is not None:
        yield from _vault(numbers.vault)
    yield _latencies(numbers)
    yield _operations(numbers)


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(f"hsmd_{name}", documentation, value=value)


def _daemon(status: DaemonStatus) -> Iterator[Metric]:
    build = GaugeMetricFamily("hsmd_build_info", "Always 1; the version is a label.", labels=["version"])
    build.add_metric([status.version], 1)
    yield build
    yield _gauge(
        "start_time_seconds",
        "When the daemon's front process started, Unix time.",
        status.started_at.timestamp(),
    )
    yield _gauge("draining", "1 while the daemon takes nothing new.", status.draining)
    connections = GaugeMetricFamily("hsmd_connections", "SSH connections.", labels=["state"])
    connections.add_metric(["starting"], status.starting)
    connections.add_metric(["authenticated"], status.connections)
    yield connections
    yield _gauge("sessions", "Channels that speak the protocol.", status.sessions)
    yield _gauge("keys", "Keys in the store.", status.keys)
    yield _gauge("clients", "Clients in the store.", status.clients)
    yield _gauge("grants", "Combinations of client, key and purpose that are granted.", status.grants)


def _audit(status: DaemonStatus) -> Iterator[Metric]:
    yield _gauge(
        "audit_writable",
        "1 if the audit log can be written; no key is used while it is 0.",
        status.audit_writable,
    )
    yield _gauge("audit_records", "Records in the audit log.", status.audit_records)
    yield _gauge(
        "audit_records_covered", "Records that the newest signed checkpoint covers.", status.audit_covered
    )
    yield _gauge(
        "audit_uncovered_seconds", "Age of the oldest records without a checkpoint.", status.audit_uncovered_s
    )
    yield _gauge(
        "audit_free_bytes", "Free space on the file system of the audit log.", status.audit_free_bytes
    )
    yield _gauge(
        "store_away_seconds",
        "How long ago the store was last reached; 0 while it can be reached.",
        status.store_away_s,
    )


def _tokens(tokens: Iterable[TokenStatus]) -> Iterator[Metric]:
    state = GaugeMetricFamily("hsmd_token_state", "1 for the state a token is in.", labels=["token", "state"])
    breaker = GaugeMetricFamily(
        "hsmd_token_breaker", "1 for the state of a token's breaker.", labels=["token", "state"]
    )
    queue = GaugeMetricFamily("hsmd_token_queue_depth", "Operations waiting for a worker.", labels=["token"])
    in_flight = GaugeMetricFamily("hsmd_token_in_flight", "Operations that workers have.", labels=["token"])
    workers = GaugeMetricFamily("hsmd_workers", "Worker processes by state.", labels=["token", "state"])
    restarts = CounterMetricFamily(
        "hsmd_worker_restarts", "Workers that were lost and replaced.", labels=["token"]
    )
    for token in tokens:
        for name in sorted({*TOKEN_STATE.values, token.state}):
            state.add_metric([token.name, name], token.state == name)
        for name in sorted({*BREAKER_STATE.values, token.breaker}):
            breaker.add_metric([token.name, name], token.breaker == name)
        queue.add_metric([token.name], token.queued)
        in_flight.add_metric([token.name], sum(worker.in_flight for worker in token.workers))
        found = Counter(worker.state for worker in token.workers)
        for name in sorted({*WORKER_STATE.values, *found}):
            workers.add_metric([token.name, name], found[name])
        restarts.add_metric([token.name], max((worker.restarts for worker in token.workers), default=0))
    yield from (state, breaker, queue, in_flight, workers, restarts)


def _certificates(numbers: Metrics) -> Iterator[Metric]:
    status = numbers.status
    yield _gauge("certificates", "Keys for which a certificate is stored.", status.certificates)
    yield _gauge("certificates_ended", "Certificates that have ended.", status.certificates_ended)
    yield _gauge("certificates_ending", "Certificates that end soon.", status.certificates_ending)
    family = GaugeMetricFamily(
        "hsmd_certificate_not_after_timestamp_seconds",
        "When the certificate of a key ends, Unix time; of the certificates that end first.",
        labels=["key"],
    )
    for each in numbers.certificate_ends:
        family.add_metric([each.key], each.not_after.timestamp())
    yield family
    lists = GaugeMetricFamily(
        "hsmd_authority_list_ends_timestamp_seconds",
        "When the newest revocation list of an authority ends, Unix time; 0 if there is none.",
        labels=["authority"],
    )
    for each_list in numbers.list_ends:
        lists.add_metric([each_list.authority], each_list.ends.timestamp() if each_list.ends else 0)
    yield lists


def _vault(numbers: VaultNumbers) -> Iterator[Metric]:
    """Of all owners together: their names are no labels."""
    acquisitions = CounterMetricFamily(
        "hsmd_vault_acquisitions",
        "Counted acquisitions of keys in the vault by how they ended.",
        labels=["outcome"],
    )
    acquisitions.add_metric(["given"], numbers.given)
    acquisitions.add_metric(["refused"], numbers.refused)
    yield acquisitions
    checks = CounterMetricFamily("hsmd_vault_checks", "Answered checks by verdict.", labels=["verdict"])
    for verdict in Verdict:
        checks.add_metric([verdict.value], numbers.checks.get(verdict.value, 0))
    yield checks
    yield CounterMetricFamily(
        "hsmd_vault_checks_overloaded",
        "Checks that were refused because there were too many.",
        value=numbers.checks_overloaded,
    )
    yield _gauge(
        "vault_management_keys_waiting",
        "Management keys that wait for an operator's confirmation.",
        numbers.keys_waiting,
    )
    yield _gauge(
        "vault_management_keys_held",
        "Active management keys that are held after a restore.",
        numbers.keys_held,
    )


def _latencies(numbers: Metrics) -> Metric:
    family = HistogramMetricFamily(
        "hsmd_operation_seconds",
        "From arrival to answer, of operations that were performed.",
        labels=["purpose", "key_type"],
    )
    bounds = [*map(str, numbers.bounds_s), "+Inf"]
    for each in numbers.latencies:
        buckets = list(zip(bounds, accumulate(each.counts), strict=True))
        family.add_metric([each.purpose, each.key_type], buckets, each.total_s)
    return family


def _operations(numbers: Metrics) -> Metric:
    family = CounterMetricFamily(
        "hsmd_operations", "Key operations by how they ended.", labels=["client", "key", "purpose", "outcome"]
    )
    for use in numbers.uses:
        family.add_metric([use.client, use.key, use.purpose, use.outcome], use.count)
    return family
