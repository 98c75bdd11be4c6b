"""Jobs: one use of a key on its way through the pool, and how it can end."""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple

from hsmd.errors import ErrorCode, HsmdError, ProtocolError, TokenFailure, Unavailable
from hsmd.protocol.frames import Kind, decode_error


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

    `alone`: nothing else may be in the worker's hands meanwhile. `context` is the submitter's. `client` is whose turn
    it takes, and `cost` what it takes of it (1: a P-256 signature). The rest is the pool's.
    """

    __slots__ = (
        "abandoned",
        "alone",
        "body",
        "client",
        "context",
        "cost",
        "deadline",
        "expired",
        "number",
        "queued",
    )

    def __init__(
        self,
        body: tuple[int, int, bytes, bytes],
        deadline: float,
        alone: bool = False,
        context: Any = None,
        client: str = "",
        cost: float = 1.0,
    ) -> None:
        self.body = body
        self.deadline = deadline
        self.alone = alone
        self.context = context
        self.client = client
        self.cost = cost
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


def completion_of(job: Job, kind: int, body: bytes) -> Completion:
    """What a worker's answer frame means. Raises ProtocolError for a frame that is no answer."""
    if kind == Kind.RESULT:
        return Completion(job, Status.LATE if job.expired else Status.ANSWERED, body, None)
    if kind != Kind.ERROR:
        raise ProtocolError(f"a frame of kind 0x{kind:02x} from a worker")
    error = decode_error(body)
    # Code 22: the worker skipped it, because by its count the deadline had passed.
    status = Status.NOT_PERFORMED if error.code == ErrorCode.DEADLINE else Status.FAILED
    return Completion(job, status, error=error)


def completion_of_lost(job: Job, started: int) -> Completion:
    """What is known about a job of a lost worker; `started` is from its progress page."""
    if job.number <= started:
        return Completion(
            job, Status.UNKNOWN, error=TokenFailure("the token worker was lost during this operation")
        )
    return Completion(job, Status.NOT_PERFORMED, error=Unavailable("the token worker was lost"))
