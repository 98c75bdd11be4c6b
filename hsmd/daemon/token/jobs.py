"""Jobs: one use of a key on its way through the pool, and how it can end."""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple

from hsmd.errors import HsmdError


class Status(Enum):
    """How a job ended, or that its deadline passed meanwhile."""

    ANSWERED = "answered"
    FAILED = "failed"
    """Refused, or the token failed; the error says why."""
    NOT_PERFORMED = "not-performed"
    """Never begun, and never will be."""
    UNKNOWN = "unknown"
    """Begun by a worker that was lost; the key may have been used."""
    EXPIRED = "expired"
    """The deadline passed while a worker has the job; its final status comes later."""
    LATE = "late"
    """The answer of a job that had been EXPIRED: for the record, not for the caller."""


class Job:
    """One use of one key. `body` is (purpose, scheme, key digest, data); `deadline` is on the pool's clock.

    `alone`: nothing else may be in the worker's hands meanwhile. `context` is the submitter's. The rest is the pool's.
    """

    __slots__ = ("abandoned", "alone", "body", "context", "deadline", "expired", "number", "queued")

    def __init__(self, body: tuple[int, int, bytes, bytes], deadline: float, alone: bool = False, context: Any = None) -> None:
        self.body = body
        self.deadline = deadline
        self.alone = alone
        self.context = context
        self.number = 0
        """Which key operation it is on its worker's socket, see `progress`."""
        self.queued = False
        self.abandoned = False
        self.expired = False


class Completion(NamedTuple):
    """What the pool says about a job: `answer` when ANSWERED or LATE, `error` when there is a reason to name."""

    job: Job
    status: Status
    answer: bytes = b""
    error: HsmdError | None = None
