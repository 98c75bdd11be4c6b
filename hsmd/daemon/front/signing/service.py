"""Key operations from the decision to the answer: decide -> record -> token -> record -> answer.

Work comes in batches, one for each read from a caller or a worker, and each batch costs one write to the audit log. What
cannot be recorded does not happen: if the attempts cannot be written nothing reaches the token, if the outcomes cannot be
written no answer leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime

from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.front.access.rules import Denial, Rule
from hsmd.daemon.front.access.snapshot import Grant, Snapshot
from hsmd.daemon.front.signing.counters import OTHER, PERFORMED, Counters
from hsmd.daemon.front.signing.crash_penalties import CrashPenalties
from hsmd.daemon.front.signing.hold import KeyHold
from hsmd.daemon.front.signing.rate_limits import Allowance, RateLimit, RateLimits
from hsmd.daemon.front.signing.signing_request import Caller, SigningRequest
from hsmd.daemon.front.tokens.pool import Completion, Job, Status, TokenPool
from hsmd.errors import (
    AuditFailure,
    DeadlineExceeded,
    Draining,
    ErrorCode,
    HsmdError,
    Overloaded,
    ProtocolError,
    PurposeMismatch,
    Refused,
    TokenFailure,
    Unavailable,
)
from hsmd.protocol.frames import KeyOperation, decode_key_operation
from hsmd.purposes import Purpose


def purpose_label(purpose: int) -> str:
    """A purpose as the audit log writes it; unknown codes stay visible as numbers."""
    return _PURPOSES.get(purpose) or f"unknown-{purpose}"


_PURPOSES = {int(purpose): purpose.label for purpose in Purpose}
_OUTCOMES = {int(code): code.name.lower().replace("_", "-") for code in ErrorCode}


class KeyService:
    """Uses keys on behalf of callers. Lives on the event loop of the front process."""

    def __init__(
        self,
        *,
        snapshot: Callable[[], Snapshot],
        audit: AuditLog,
        pools: Mapping[str, TokenPool],
        clock: Callable[[], float],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        tallies: Counters | None = None,
        shares: RateLimits | None = None,
        hold: KeyHold | None = None,
    ) -> None:
        self._snapshot = snapshot
        self._audit = audit
        self._pools = pools
        self._clock = clock
        self._penalties = CrashPenalties(clock)
        self._now = now
        self._shares = shares or RateLimits(RateLimit(1_000_000, 1_000_000))
        self._hold = hold or KeyHold()
        self.draining = False
        self.tallies = tallies or Counters()

    def use(self, caller: Caller, requests: Iterable[tuple[int, bytes]]) -> bool:
        """Take one batch of key operation frames, as (request id, body), from a caller.

        False if the caller's client is beyond its share: it should not be listened to for a moment. Raises ProtocolError for a
        malformed body; the operations before it in the batch are carried out.
        """
        snapshot, now, arrived = self._snapshot(), self._now(), self._clock()
        share = self._shares.of(caller.identity.client, arrived)
        fault: ProtocolError | None = None
        uses: list[SigningRequest] = []
        for request_id, body in requests:
            try:
                operation = decode_key_operation(body)
            except ProtocolError as error:
                fault = error
                break
            use = self._decide(snapshot, now, caller, request_id, operation, arrived, share)
            if use is not None:
                uses.append(use)
        uses = self._not_turned_away(uses)
        for use in uses:
            self._record_attempt(use)
            caller.opened(use.request_id, use)
        self._start(uses)
        if fault is not None:
            raise fault
        return not share.spent

    def use_for_daemon(
        self, caller: Caller, grant: Grant, purpose: Purpose, scheme: int, data: bytes, deadline: float
    ) -> SigningRequest:
        """One operation that the daemon itself builds from typed fields (certificate requests, ...).

        Raises the error of the hold while there is one; checkpoints are signed even then.
        """
        hold = self._hold.error
        if hold is not None and purpose is not Purpose.CHECKPOINT:
            raise hold
        use = SigningRequest(caller, 1, grant, self._clock())
        use.job = Job((purpose, scheme, grant.key, data), deadline, False, use, grant.client, grant.cost)
        self._record_attempt(use)
        self._start([use])
        return use

    def abandon(self, uses: Iterable[SigningRequest]) -> None:
        """Nobody waits for these any more: what is still queued is not performed."""
        for use in uses:
            use.abandoned = True
            pool = self._pools.get(use.grant.token)
            if pool is not None and use.job is not None:
                pool.abandon(use.job)

    def completed(self, completions: list[Completion]) -> None:
        """Take what one read from a worker (or one sweep of the deadlines) completed."""
        again: list[SigningRequest] = []
        replies: list[tuple[SigningRequest, bytes | HsmdError]] = []
        for job, status, answer, error in completions:
            use: SigningRequest = job.context
            if status is Status.ANSWERED or status is Status.LATE:
                self._audit.outcome(use.attempt, "performed", answer)
                if use.retried:
                    self._acquit(use)
                if not use.replied:
                    replies.append((use, answer))
            elif status is Status.EXPIRED:
                replies.append((use, DeadlineExceeded()))
            else:
                self._unanswered(use, status, error, again, replies)
        self._deliver(replies)
        if again:
            for use in again:
                self._record_attempt(use)
            self._start(again)

    def crashed(self, job: Job) -> None:
        """A worker crashed during this job; a client that does so again with the same key is refused for a while.

        It does not count if the operation was answered when it was done once more, which may be known first.
        """
        use: SigningRequest = job.context
        lasts_s = 0.0
        if not use.acquitted:
            use.accused = True
            lasts_s = self._penalties.crashed(use.grant.client, use.grant.key)
        with suppress(AuditFailure):  # the attempt has its record; this one says why later ones are refused
            self._audit.event(
                "worker.crashed",
                use.grant.client,
                key=use.grant.key.hex(),
                attempt=use.attempt,
                penalty_s=int(lasts_s),
            )
            self._audit.commit()

    def _acquit(self, use: SigningRequest) -> None:
        use.acquitted = True
        if use.accused:
            self._penalties.acquitted(use.grant.client, use.grant.key)

    # --- deciding ---

    def _decide(
        self,
        snapshot: Snapshot,
        now: datetime,
        caller: Caller,
        request_id: int,
        operation: KeyOperation,
        arrived: float,
        share: Allowance,
    ) -> SigningRequest | None:
        deadline_ms, purpose, scheme, key, data = operation
        identity = caller.identity
        grant = snapshot.decide(identity, key, purpose, now)
        if isinstance(grant, Denial):
            self._refuse(snapshot, caller, request_id, operation, grant)
            return None
        hold = self._hold.error
        if hold is not None:
            self.tallies.count(
                grant.client, grant.key_name, purpose_label(purpose), _OUTCOMES[int(hold.code)]
            )
            caller.failed(request_id, hold)
            return None
        if self._penalties.pairs and self._penalties.refuses(grant.client, key):
            self._refuse_penalised(caller, request_id, operation, grant)
            return None
        if self.draining:
            self.tallies.count(grant.client, grant.key_name, purpose_label(purpose), "draining")
            caller.failed(request_id, Draining())
            return None
        if retry_after_ms := share.take(self._shares.limits):
            self._turn_away(caller, request_id, grant, purpose, Overloaded(retry_after_ms=retry_after_ms))
            return None
        use = SigningRequest(caller, request_id, grant, arrived, share)
        use.job = Job(
            (purpose, scheme, key, data), arrived + deadline_ms / 1000, False, use, grant.client, grant.cost
        )
        return use

    def _not_turned_away(self, uses: list[SigningRequest]) -> list[SigningRequest]:
        """Those that their tokens have room for, and time; nothing is recorded about the others, which touch no key."""
        by_token: dict[str, list[Job]] = {}
        for use in uses:
            by_token.setdefault(use.grant.token, []).append(use.job)  # type: ignore[arg-type]
        refused: dict[SigningRequest, HsmdError] = {}
        for token, jobs in by_token.items():
            pool = self._pools.get(token)
            if pool is not None:
                refused |= {job.context: error for job, error in pool.refused(jobs)}
        for use, error in refused.items():
            if use.share is not None and use.job is not None:
                use.share.give_back()
                self._turn_away(use.caller, use.request_id, use.grant, use.job.body[0], error)
        return [use for use in uses if use not in refused] if refused else uses

    def _turn_away(
        self, caller: Caller, request_id: int, grant: Grant, purpose: int, error: HsmdError
    ) -> None:
        outcome = _OUTCOMES.get(error.code, "internal")
        self.tallies.count(grant.client, grant.key_name, purpose_label(purpose), outcome)
        caller.failed(request_id, error)

    def _refuse(
        self, snapshot: Snapshot, caller: Caller, request_id: int, operation: KeyOperation, denial: Denial
    ) -> None:
        identity = caller.identity
        self._audit.refusal(
            identity.client,
            identity.credential,
            operation.key,
            purpose_label(operation.purpose),
            operation.scheme,
            operation.data,
            denial.rule.value,
        )
        purpose = _PURPOSES.get(operation.purpose, OTHER)
        self.tallies.count(identity.client, snapshot.key_name(operation.key) or OTHER, purpose, "refused")
        caller.failed(request_id, Refused())

    def _refuse_penalised(
        self, caller: Caller, request_id: int, operation: KeyOperation, grant: Grant
    ) -> None:
        """Looks to the caller like a token that fails, as it did before."""
        purpose = purpose_label(operation.purpose)
        self._audit.refusal(
            grant.client,
            caller.identity.credential,
            operation.key,
            purpose,
            operation.scheme,
            operation.data,
            Rule.PENALISED.value,
        )
        self.tallies.count(grant.client, grant.key_name, purpose, "refused")
        caller.failed(request_id, TokenFailure())

    # --- recording and handing on ---

    def _record_attempt(self, use: SigningRequest) -> None:
        assert use.job is not None
        purpose, scheme, key, data = use.job.body
        identity = use.caller.identity
        use.attempt = self._audit.attempt(
            identity.client,
            identity.credential,
            use.grant.key_name,
            key,
            purpose_label(purpose),
            scheme,
            data,
        )

    def _start(self, uses: list[SigningRequest]) -> None:
        """Write the attempts, then let the pools have the jobs."""
        try:
            self._audit.commit()
        except AuditFailure as error:
            self._deliver([(use, error) for use in uses], recorded=False)
            return
        by_token: dict[str, list[Job]] = {}
        for use in uses:
            by_token.setdefault(use.grant.token, []).append(use.job)  # type: ignore[arg-type]
        for token, jobs in by_token.items():
            self._submit(token, jobs)

    def _submit(self, token: str, jobs: list[Job]) -> None:
        pool = self._pools.get(token)
        if pool is not None:
            pool.submit(jobs)
            return
        gone = Unavailable(f"the token {token!r} is not configured on this daemon")
        self.completed([Completion(job, Status.FAILED, b"", gone) for job in jobs])

    # --- outcomes ---

    def _unanswered(
        self,
        use: SigningRequest,
        status: Status,
        error: HsmdError | None,
        again: list[SigningRequest],
        replies: list[tuple[SigningRequest, bytes | HsmdError]],
    ) -> None:
        if status is Status.FAILED:
            refused = isinstance(error, PurposeMismatch | Refused)
            error = error or TokenFailure()
            self._audit.outcome(use.attempt, "refused" if refused else "failed", None, _reason(error))
        else:
            self._audit.outcome(use.attempt, "unknown" if status is Status.UNKNOWN else "not-performed", None)
            if not isinstance(error, DeadlineExceeded) and self._repeat(use, status):
                again.append(use)
                return
            error = TokenFailure() if self._penalised(use) else _lost(use, status)
        if not use.replied:
            replies.append((use, error))

    def _repeat(self, use: SigningRequest, status: Status) -> bool:
        """Whether a job that its worker lost runs once more; an UNKNOWN one does so once, alone (decision 1)."""
        if use.replied or use.abandoned or use.job is None or self._clock() >= use.job.deadline:
            return False
        if self._penalised(use):
            return False
        alone = status is Status.UNKNOWN or use.job.alone
        if status is Status.UNKNOWN:
            if use.retried:
                return False
            use.retried = True
        use.job = Job(use.job.body, use.job.deadline, alone, use, use.job.client, use.job.cost)
        return True

    def _penalised(self, use: SigningRequest) -> bool:
        return bool(self._penalties.pairs) and self._penalties.refuses(use.grant.client, use.grant.key)

    def _deliver(
        self, replies: list[tuple[SigningRequest, bytes | HsmdError]], *, recorded: bool = True
    ) -> None:
        failure = self._commit_failure() if recorded else None
        callers: dict[int, Caller] = {}
        now = self._clock()
        for use, reply in replies:
            if failure is not None:
                reply = failure
            if use.share is not None and not use.replied:
                use.share.give_back()
            use.replied = True
            caller = use.caller
            callers[id(caller)] = caller
            self._count(use, reply, now)
            if isinstance(reply, bytes):
                caller.answered(use.request_id, reply)
            else:
                caller.failed(use.request_id, reply)
        for caller in callers.values():
            caller.flush()

    def _commit_failure(self) -> AuditFailure | None:
        try:
            self._audit.commit()
        except AuditFailure as error:
            return error
        return None

    def _count(self, use: SigningRequest, reply: bytes | HsmdError, now: float) -> None:
        grant = use.grant
        assert use.job is not None
        purpose = purpose_label(use.job.body[0])
        if isinstance(reply, bytes):
            self.tallies.count(grant.client, grant.key_name, purpose, PERFORMED)
            self.tallies.took(purpose, grant.key_type.value, now - use.arrived)
        else:
            self.tallies.count(grant.client, grant.key_name, purpose, _OUTCOMES.get(reply.code, "internal"))


def _reason(error: HsmdError) -> str:
    return f"{int(error.code)} {error.text}"


def _lost(use: SigningRequest, status: Status) -> HsmdError:
    if use.abandoned:
        return DeadlineExceeded("cancelled")
    if status is Status.UNKNOWN:
        return TokenFailure("the token worker was lost during this operation")
    return DeadlineExceeded()
