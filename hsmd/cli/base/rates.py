"""Rates and latencies from a daemon's counters, between two readings or over the daemon's own recent window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hsmd.cli.base.output import table
from hsmd.protocol.messages import Latency, Metrics

if TYPE_CHECKING:
    from rich.console import RenderableType

PERFORMED = "performed"
_HEADERS = ("CLIENT", "KEY", "PURPOSE", "PER S", "FAILED/S", "DONE", "FAILED")


@dataclass(slots=True)
class UseRate:
    """The use of a key by a client for a purpose: per second, and since the daemon's start."""

    client: str
    key: str
    purpose: str
    per_s: float = 0.0
    failing_per_s: float = 0.0
    performed: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class LatencyView:
    """Upper bounds of median and 99th percentile in milliseconds; None: above all buckets."""

    purpose: str
    key_type: str
    p50_ms: float | None
    p99_ms: float | None


def use_rates(now: Metrics, before: Metrics | None, elapsed_s: float) -> list[UseRate]:
    """One for each client, key and purpose. Without an earlier reading, from the daemon's recent window."""
    earlier = _counts(before) if before is not None else None
    rates: dict[tuple[str, str, str], UseRate] = {}
    for use in now.uses:
        series = (use.client, use.key, use.purpose)
        rate = rates.setdefault(series, UseRate(*series))
        if earlier is None:
            per_s = use.recent / use.over_s
        else:
            # A restarted daemon counts from zero.
            per_s = max(0, use.count - earlier.get((*series, use.outcome), 0)) / elapsed_s
        if use.outcome == PERFORMED:
            rate.per_s += per_s
            rate.performed += use.count
        else:
            rate.failing_per_s += per_s
            rate.failed += use.count
    return list(rates.values())


def latency_views(now: Metrics, before: Metrics | None) -> list[LatencyView]:
    """Latencies of the operations between the two readings, or of all; purposes without operations are omitted."""
    earlier = {(each.purpose, each.key_type): each for each in before.latencies} if before is not None else {}
    views = []
    for each in now.latencies:
        counts = _since(each, earlier.get((each.purpose, each.key_type)))
        if sum(counts):
            p50, p99 = (_quantile(counts, now.bounds_s, share) for share in (0.5, 0.99))
            views.append(LatencyView(each.purpose, each.key_type, p50, p99))
    return views


def _counts(metrics: Metrics) -> dict[tuple[str, str, str, str], int]:
    return {(use.client, use.key, use.purpose, use.outcome): use.count for use in metrics.uses}


def _since(now: Latency, before: Latency | None) -> list[int]:
    if before is None or len(before.counts) != len(now.counts) or sum(before.counts) > sum(now.counts):
        return now.counts
    return [new - old for new, old in zip(now.counts, before.counts, strict=True)]


def _quantile(counts: Sequence[int], bounds_s: Sequence[float], share: float) -> float | None:
    """The upper bound, in milliseconds, of the bucket with the quantile `share`."""
    wanted = share * sum(counts)
    for count, bound_s in zip(counts, bounds_s, strict=False):
        wanted -= count
        if wanted <= 0:
            return round(bound_s * 1000, 3)
    return None


# --- tables ---


def by_rate(use: UseRate) -> Any:
    """Sort key: highest rate first."""
    return (-use.per_s - use.failing_per_s, use.client, use.key, use.purpose)


def use_table(uses: Sequence[UseRate]) -> RenderableType:
    """A table of `uses` in their order."""
    return table(_HEADERS, map(_row, uses))


def _row(use: UseRate) -> tuple[str, ...]:
    numbers = (f"{use.per_s:.1f}", f"{use.failing_per_s:.1f}", str(use.performed), str(use.failed))
    return (use.client, use.key, use.purpose, *numbers)
