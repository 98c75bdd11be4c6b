"""Jobs: one key operation each on its way through a token's pool, and how it can end."""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple

from msgspec import Struct

from hsmd.errors import HsmdError

LONG_BYTES = 8_192
"""Copying, checking and hashing so many bytes costs at most as much as a P-256 signature. Handshakes sign far less."""


class Status(Enum):
    """How a job ended, or that its deadline passed before it did."""

    ANSWERED = "answered"
    FAILED = "failed"
    """Refused, or the token failed; the error says which."""
    NOT_PERFORMED = "not-performed"
    """Never begun, and never will be."""
    UNKNOWN = "unknown"
    """Begun by a worker that was lost; the key may have been used."""
    EXPIRED = "expired"
    """The deadline passed while a worker has the job; its final status follows."""
    LATE = "late"
    """The answer of a job that had been EXPIRED: for the audit log, not for the caller."""


class Job(Struct, eq=False):
    """One key operation. The fields up to `cost` are the submitter's, the others the pool's.

    `body` is (purpose, scheme, key digest, data); `deadline` is on the pool's clock. With `alone` the worker is given nothing
    else meanwhile. `context` is not looked at. `client` is charged `cost` for it (1: a P-256 signature; see `job_cost`).
    """

    body: tuple[int, int, bytes, bytes]
    deadline: float
    alone: bool = False
    context: Any = None
    client: str = ""
    cost: float = 1.0
    number: int = 0
    """Its number among the key operations sent to its worker, as the worker's progress page counts them."""
    queued: bool = False
    abandoned: bool = False
    expired: bool = False

    __repr__ = object.__repr__  # a Struct's own would show the data, and recurse through `context`


def let_go(job: Job) -> None:
    """The submitter expects nothing more of a job: leave no cycle, which would stay until the garbage collector runs."""
    job.context = None


def job_cost(work: float, data: bytes) -> float:
    """What a client is charged for a use of a key (KeyFacts.work) with so much data."""
    return work + len(data) // LONG_BYTES


class Completion(NamedTuple):
    """What the pool reports of a job: `answer` if ANSWERED or LATE, `error` if there is a reason to give."""

    job: Job
    status: Status
    answer: bytes = b""
    error: HsmdError | None = None
