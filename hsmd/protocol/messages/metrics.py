"""Control requests about counters: operations by client, key, purpose and outcome, and how long they took."""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct

from hsmd.protocol.messages.base import AUDITOR, NO_SUBJECT, OPERATOR, Request
from hsmd.protocol.messages.enumerations import KEY_TYPE, OUTCOME, PURPOSE
from hsmd.protocol.messages.status import CertificateEnd, DaemonStatus, ListEnd

__all__ = ["Latency", "Metrics", "MetricsRead", "UseCount", "VaultNumbers"]


class UseCount(Struct):
    """Operations of one client with one key for one purpose that had the same outcome.

    Beyond a number of such series, further clients, keys and purposes are counted together as `other`.
    """

    client: str
    key: str
    purpose: Annotated[str, PURPOSE.meta]
    outcome: Annotated[str, OUTCOME.meta]
    count: int
    recent: int
    """Those of the last `over_s` seconds."""
    over_s: float


class Latency(Struct):
    """How long performed operations took from arrival to answer, as a histogram."""

    purpose: Annotated[str, PURPOSE.meta]
    key_type: Annotated[str, KEY_TYPE.meta]
    counts: list[int]
    """`counts[i]` operations took at most `bounds_s[i]` seconds of [Metrics](#metrics) and more than the bound before; one
    more number counts those that took longer than every bound."""
    total_s: float
    """Sum of all their durations."""


class VaultNumbers(Struct, omit_defaults=True):
    """What the vault has done since the start of the daemon, and what waits in it, of all owners together."""

    given: int = 0
    """Acquisitions for which an envelope was given out."""
    refused: int = 0
    """Those that were counted and not given out: beyond their uses, outside of their term, suspended."""
    checks: dict[str, int] = {}
    """Answered checks by verdict."""
    checks_overloaded: int = 0
    """Checks that were refused because there were too many."""
    keys_waiting: int = 0
    """Management keys that wait for an operator's confirmation; at most a minute old."""
    keys_held: int = 0
    """Active management keys that are held after a restore, with what is sealed to them; at most a minute old."""


class Metrics(Struct):
    """The state of the daemon and its counters, which run since its start."""

    status: DaemonStatus
    uses: list[UseCount]
    bounds_s: list[float]
    """Upper bounds of the histograms in `latencies`, rising."""
    latencies: list[Latency]
    certificate_ends: list[CertificateEnd] = []
    """The certificates that end first, at most 500, in that order."""
    vault: VaultNumbers | None = None
    """None from a daemon of an earlier release."""
    list_ends: list[ListEnd] = []
    """The revocation lists that end first, at most 500."""


class MetricsRead(Request, tag="metrics.read"):
    """Return the state of the daemon with its counters of key operations."""

    Result = Metrics
    roles = OPERATOR | AUDITOR
    changes = False
    subject = NO_SUBJECT
