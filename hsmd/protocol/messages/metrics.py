"""Control requests about numbers: what is asked of which key by whom, and how long it takes."""

from __future__ import annotations

from msgspec import Struct

from hsmd.protocol.messages.base import (
    AUDITOR,
    NO_SUBJECT,
    OPERATOR,
    Request,
)
from hsmd.protocol.messages.status import DaemonStatus

__all__ = ["Latency", "Metrics", "MetricsRead", "UseCount"]


class UseCount(Struct):
    """Operations of one client with one key for one purpose that ended alike.

    `recent` of them came in the last `over_s` seconds. What there is no series for is counted as `other`.
    """

    client: str
    key: str
    purpose: str
    outcome: str
    count: int
    recent: int
    over_s: float


class Latency(Struct):
    """How long performed operations took from arrival to answer: `counts[i]` took at most `Metrics.bounds_s[i]` seconds
    and longer than the bound before; one more holds the rest. `total_s` is their sum."""

    purpose: str
    key_type: str
    counts: list[int]
    total_s: float


class Metrics(Struct):
    """The daemon's state with its counters, which run since its start."""

    status: DaemonStatus
    uses: list[UseCount]
    bounds_s: list[float]
    latencies: list[Latency]


class MetricsRead(Request, tag="metrics.read"):
    """Operator, auditor: what goes on now?"""

    Result = Metrics
    roles = OPERATOR | AUDITOR
    changes = False
    subject = NO_SUBJECT
