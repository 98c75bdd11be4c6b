"""One accepted key operation on its way, and the caller that it is answered to."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot import Grant
from hsmd.daemon.front.signing.rate_limits import Allowance
from hsmd.daemon.front.tokens.jobs import Job
from hsmd.errors import HsmdError


class Caller(Protocol):
    """What asked: a session, or the daemon itself. An answer that comes after the caller has ended is ignored by it."""

    identity: Identity
    open_requests: dict[int, SigningRequest | None]
    """By request id. An accepted request is entered here, and will be answered exactly once."""

    def answered(self, request_id: int, answer: bytes) -> None:
        """Take the token's answer."""

    def failed(self, request_id: int, error: HsmdError) -> None:
        """Take the error that stands for the answer."""

    def flush(self) -> None:
        """There are no more answers in this batch: send them in one piece."""


class SigningRequest(Struct, eq=False):
    """One accepted key operation: its caller, its job at the token, and the index of its attempt record."""

    caller: Caller
    request_id: int
    grant: Grant
    arrived: float
    job: Job
    allowance: Allowance | None = None
    attempt: int = 0
    retried: bool = False
    """Its worker was lost, and it was handed to another one."""
    accused: bool = False
    """A worker crashed during it, which counts against its client ..."""
    acquitted: bool = False
    """... unless another worker carried it out without a crash."""
    replied: bool = False
    abandoned: bool = False

    __repr__ = object.__repr__  # a Struct's own would show the data, and recurse through `job`
