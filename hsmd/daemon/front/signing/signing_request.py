"""A use: one accepted key operation on its way, and the caller who waits for its answer."""

from __future__ import annotations

from typing import Protocol

from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot import Grant
from hsmd.daemon.front.signing.rate_limits import Allowance
from hsmd.daemon.front.tokens.jobs import Job
from hsmd.errors import HsmdError


class Caller(Protocol):
    """Whoever asked: a session, or the daemon itself. Answers may come after the caller has gone; it drops them."""

    identity: Identity

    def opened(self, request_id: int, use: SigningRequest) -> None:
        """The request was accepted and will be answered exactly once."""

    def answered(self, request_id: int, answer: bytes) -> None:
        """The token's answer."""

    def failed(self, request_id: int, error: HsmdError) -> None:
        """There is no answer, and this is why."""

    def flush(self) -> None:
        """No more answers in this batch: send what there is in one piece."""


class SigningRequest:
    """One accepted key operation on its way: whose it is, and the attempt record that stands for it."""

    __slots__ = (
        "abandoned",
        "accused",
        "acquitted",
        "arrived",
        "attempt",
        "caller",
        "grant",
        "job",
        "replied",
        "request_id",
        "retried",
        "share",
    )

    def __init__(
        self, caller: Caller, request_id: int, grant: Grant, arrived: float, share: Allowance | None = None
    ) -> None:
        self.caller = caller
        self.share = share
        self.request_id = request_id
        self.grant = grant
        self.arrived = arrived
        self.attempt = 0
        self.job: Job | None = None
        self.retried = False
        """Its worker was lost, and it was handed to another one."""
        self.accused = False
        """A worker crashed during it, and that counts against its client ..."""
        self.acquitted = False
        """... or does not, because another worker did the same without harm."""
        self.replied = False
        self.abandoned = False
