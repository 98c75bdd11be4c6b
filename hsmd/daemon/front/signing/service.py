"""Key operations from the decision to the answer: decide, record the attempt, use the token, record the outcome, answer.

They come in batches, one for each read from a caller or a worker, and each batch costs one write to the audit log. What cannot be
recorded does not happen: if the attempts cannot be written nothing reaches the token, and if the outcomes cannot be written no
answer leaves the daemon. Uses of limited grants are counted before they go to the token (limited_uses.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime

from hsmd.daemon.audit.log import AuditLog, utc_now
from hsmd.daemon.front.access.rules import Denial, Rule
from hsmd.daemon.front.access.snapshot import Grant, Snapshot
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.signing.counters import OTHER, PERFORMED, Counters
from hsmd.daemon.front.signing.crash_penalties import CrashPenalties
from hsmd.daemon.front.signing.hold import KeyHold
from hsmd.daemon.front.signing.limited_uses import COUNTED, Ended, LimitedUses
from hsmd.daemon.front.signing.rate_limits import Allowance, RateLimit, RateLimits
from hsmd.daemon.front.signing.signing_request import Caller, SigningRequest
from hsmd.daemon.front.signing.use_records import UseRecords
from hsmd.daemon.front.tokens.jobs import job_cost, let_go
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
    """A purpose as the audit log writes it; unknown codes are written as numbers."""
    return _PURPOSES.get(purpose) or f"unknown-{purpose}"


_PURPOSES = {int(purpose): purpose.label for purpose in Purpose}
_OUTCOMES = {int(code): code.name.lower().replace("_", "-") for code in ErrorCode}


class KeyService:
    """Uses keys on behalf of callers, on the event loop of the front."""

    def __init__(
        self,
        *,
        cache: SnapshotCache,
        audit: AuditLog,
        origin: str,
        pools: Mapping[str, TokenPool],
        clock: Callable[[], float],
        now: Callable[[], datetime] = utc_now,
        counters: Counters | None = None,
        limits: RateLimits | None = None,
        hold: KeyHold | None = None,
    ) -> None:
        """`origin` names the audit log in the store."""
        self.counters = counters or Counters()
        self.draining = False
        """Whether no new operations are accepted because the daemon stops."""
        self._cache = cache
        self._audit = audit
        self._pools = pools
        self._clock = clock
        self._now = now
        self._limits = limits or RateLimits(RateLimit(1_000_000, 1_000_000))
        self._hold = hold or KeyHold()
        self._penalties = CrashPenalties(clock)
        self.limited_uses = LimitedUses(
            cache=cache,
            records=UseRecords(origin, audit, cache),
            clock=clock,
            now=now,
            submit=self._submit_all,
            end=self._end_unperformed,
        )

    def drain(self) -> None:
        """Accept no new operations from now on; those that are open are completed."""
        self.draining = True

    def use(self, caller: Caller, operations: Iterable[tuple[int, bytes]]) -> bool:
        """Take one batch of key operation frames, as (request id, body), from a caller.

        Return False if the client has used up its allowance: its requests should not be read for a moment. Raises ProtocolError
        for a malformed body; the operations before it in the batch are carried out.
        """
        snapshot, now, arrived = self._cache.snapshot, self._now(), self._clock()
        allowance = self._limits.of(caller.identity.client, arrived)
        fault: ProtocolError | None = None
        requests: list[SigningRequest] = []
        for request_id, body in operations:
            try:
                operation = decode_key_operation(body)
            except ProtocolError as error:
                fault = error
                break
            request = self._decide(snapshot, now, caller, request_id, operation, arrived, allowance)
            if request is not None:
                requests.append(request)
        requests = self._without_overload(requests)
        for request in requests:
            self._record_attempt(request)
            caller.open_requests[request.request_id] = request
        self._start(requests)
        if fault is not None:
            raise fault
        return not allowance.spent

    def use_for_daemon(
        self, caller: Caller, grant: Grant, purpose: Purpose, scheme: int, data: bytes, deadline: float
    ) -> SigningRequest:
        """Start one operation that the daemon itself builds from typed fields, such as a certificate request.

        Raises the error of the hold while there is one; checkpoints are signed even then. A limited grant is admitted as a
        key operation is, and raises its errors.
        """
        hold = self._hold.error
        if hold is not None and purpose is not Purpose.CHECKPOINT:
            raise hold
        job = Job(
            (purpose, scheme, grant.key, data), deadline, client=grant.client, cost=job_cost(grant.cost, data)
        )
        job.context = request = SigningRequest(caller, 1, grant, self._clock(), job)
        if grant.limit is not None:
            self._admit(request)
        self._record_attempt(request)
        self._start([request])
        return request

    def abandon(self, requests: Iterable[SigningRequest]) -> None:
        """The callers no longer wait for these requests: those that are still queued are not performed."""
        for request in requests:
            request.abandoned = True
            pool = self._pools.get(request.grant.token)
            if pool is not None:
                pool.abandon(request.job)

    def completed(self, completions: list[Completion]) -> None:
        """Take what one read from a worker (or one sweep of the deadlines) completed."""
        again: list[SigningRequest] = []
        replies: list[tuple[SigningRequest, bytes | HsmdError]] = []
        for job, status, answer, error in completions:
            request: SigningRequest = job.context
            if status is Status.ANSWERED or status is Status.LATE:
                self._audit.outcome(request.attempt, "performed", answer)
                if request.retried:
                    self._acquit(request)
                if not request.replied:
                    replies.append((request, answer))
            elif status is Status.EXPIRED:
                replies.append((request, DeadlineExceeded()))
            else:
                self._unanswered(request, status, error, again, replies)
            if status is not Status.EXPIRED and status is not Status.UNKNOWN:
                let_go(job)
        self._deliver(replies)
        if again:
            for request in again:
                self._record_attempt(request)
            self._start(again)

    def crashed(self, job: Job) -> None:
        """A worker crashed during this job: count it towards a crash penalty of the client for the key.

        It does not count if the operation was answered when it was tried again, which may be known before the crash is.
        """
        request: SigningRequest = job.context
        client, key = request.grant.client, request.grant.key
        penalty_s = 0.0
        if not request.acquitted:
            request.accused = True
            penalty_s = self._penalties.crashed(client, key)
        with suppress(
            AuditFailure
        ):  # the attempt has its record; this one says why later requests are refused
            self._audit.event(
                "worker.crashed", client, key=key.hex(), attempt=request.attempt, penalty_s=int(penalty_s)
            )
            self._audit.commit()

    def _acquit(self, request: SigningRequest) -> None:
        request.acquitted = True
        if request.accused:
            self._penalties.acquitted(request.grant.client, request.grant.key)

    # --- deciding ---

    def _decide(
        self,
        snapshot: Snapshot,
        now: datetime,
        caller: Caller,
        request_id: int,
        operation: KeyOperation,
        arrived: float,
        allowance: Allowance,
    ) -> SigningRequest | None:
        """The request that an operation becomes; None if it was refused, with the first reason that applies."""
        deadline_ms, purpose, scheme, key, data = operation
        grant = snapshot.decide(caller.identity, key, purpose, now)
        if isinstance(grant, Denial):
            self._refuse(snapshot, caller, request_id, operation, grant)
        elif self._hold.error is not None:
            self._fail(caller, request_id, grant, purpose, self._hold.error)
        elif self._penalties.pairs and self._penalties.refuses(grant.client, key):
            self._refuse_penalised(caller, request_id, operation, grant)
        elif self.draining:
            self._fail(caller, request_id, grant, purpose, Draining())
        elif wait_s := allowance.take(self._limits.limits):
            self._fail(caller, request_id, grant, purpose, Overloaded.retry_in(wait_s))
        else:
            deadline = arrived + deadline_ms / 1000
            cost = job_cost(grant.cost, data)
            job = Job((purpose, scheme, key, data), deadline, False, None, grant.client, cost)
            job.context = request = SigningRequest(caller, request_id, grant, arrived, job, allowance)
            return request
        return None

    def _admit(self, request: SigningRequest) -> None:
        """Check what the daemon built for a client with a limited grant, and the limits of that client. Raises HsmdError."""
        grant, job = request.grant, request.job
        if grant.allowed is not None:
            grant.allowed.check_info(job.body[3])
        if self._penalised(request):
            raise TokenFailure
        if self.draining:
            raise Draining
        allowance = self._limits.of(grant.client, request.arrived)
        if wait_s := allowance.take(self._limits.limits):
            raise Overloaded.retry_in(wait_s)
        request.allowance = allowance
        for error in self._overload([request]).values():
            allowance.open -= 1
            raise error

    def _without_overload(self, requests: list[SigningRequest]) -> list[SigningRequest]:
        """Fail the requests that their tokens cannot take, and return the others.

        Nothing is recorded about those that fail here: they use no key.
        """
        refused = self._overload(requests)
        for request, error in refused.items():
            if request.allowance is not None:
                request.allowance.open -= 1
            self._fail(request.caller, request.request_id, request.grant, request.job.body[0], error)
            let_go(request.job)
        return [request for request in requests if request not in refused] if refused else requests

    def _overload(self, requests: list[SigningRequest]) -> dict[SigningRequest, HsmdError]:
        """The requests that their tokens, or the store for limited grants, cannot take now, each with its error."""
        by_token: dict[str, list[Job]] = {}
        limited: list[SigningRequest] = []
        for request in requests:
            by_token.setdefault(request.grant.token, []).append(request.job)
            if request.grant.limit is not None:
                limited.append(request)
        refused = dict(self.limited_uses.refused(limited)) if limited else {}
        for token, jobs in by_token.items():
            pool = self._pools.get(token)
            if pool is not None:
                refused |= {job.context: error for job, error in pool.refused(jobs)}
        return refused

    def _fail(self, caller: Caller, request_id: int, grant: Grant, purpose: int, error: HsmdError) -> None:
        """Answer with an error although there is a grant; the audit log has no record of it."""
        outcome = _OUTCOMES.get(error.code, "internal")
        self.counters.count(grant.client, grant.key_name, purpose_label(purpose), outcome)
        caller.failed(request_id, error)

    def _refuse(
        self, snapshot: Snapshot, caller: Caller, request_id: int, operation: KeyOperation, denial: Denial
    ) -> None:
        client = caller.identity.client
        self._record_refusal(caller, operation, denial.rule)
        purpose = _PURPOSES.get(operation.purpose, OTHER)
        self.counters.count(client, snapshot.key_name(operation.key) or OTHER, purpose, "refused")
        caller.failed(request_id, Refused())

    def _refuse_penalised(
        self, caller: Caller, request_id: int, operation: KeyOperation, grant: Grant
    ) -> None:
        """Answer as if the token had failed, as it did for the requests that led to the penalty."""
        self._record_refusal(caller, operation, Rule.PENALISED)
        self.counters.count(grant.client, grant.key_name, purpose_label(operation.purpose), "refused")
        caller.failed(request_id, TokenFailure())

    def _record_refusal(self, caller: Caller, operation: KeyOperation, rule: Rule) -> None:
        self._audit.refusal(
            caller.identity.client,
            caller.identity.credential.text,
            operation.key,
            purpose_label(operation.purpose),
            operation.scheme,
            operation.data,
            rule.value,
        )

    # --- to the token ---

    def _record_attempt(self, request: SigningRequest) -> None:
        purpose, scheme, key, data = request.job.body
        identity = request.caller.identity
        request.attempt = self._audit.attempt(
            identity.client,
            identity.credential.text,
            request.grant.key_name,
            key,
            purpose_label(purpose),
            scheme,
            data,
        )

    def _start(self, requests: list[SigningRequest]) -> None:
        """Write the attempts, then submit the jobs."""
        try:
            self._audit.commit()
        except AuditFailure as error:
            self._deliver([(request, error) for request in requests], recorded=False)
            for request in requests:
                let_go(request.job)
            return
        limited = [request for request in requests if request.grant.limit is not None]
        if limited:
            self.limited_uses.begin(limited)
            requests = [request for request in requests if request.grant.limit is None]
        self._submit_all(requests)

    def _submit_all(self, requests: list[SigningRequest]) -> None:
        by_token: dict[str, list[Job]] = {}
        for request in requests:
            by_token.setdefault(request.grant.token, []).append(request.job)
        for token, jobs in by_token.items():
            self._submit(token, jobs)

    def _end_unperformed(self, ended: list[Ended]) -> None:
        """Record and answer requests of limited grants that do not reach the token."""
        for request, result, reason, _ in ended:
            self._audit.outcome(request.attempt, result, None, reason)
            let_go(request.job)
        self._deliver([(request, error) for request, _, _, error in ended])

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
        request: SigningRequest,
        status: Status,
        error: HsmdError | None,
        again: list[SigningRequest],
        replies: list[tuple[SigningRequest, bytes | HsmdError]],
    ) -> None:
        """Record the outcome of a request without an answer, and add it to `again` or `replies`."""
        if status is Status.FAILED:
            refused = isinstance(error, PurposeMismatch | Refused)
            error = error or TokenFailure()
            self._audit.outcome(request.attempt, "refused" if refused else "failed", None, _reason(error))
        else:
            outcome = "unknown" if status is Status.UNKNOWN else "not-performed"
            self._audit.outcome(
                request.attempt, outcome, None, "" if request.grant.limit is None else COUNTED
            )
            if not isinstance(error, DeadlineExceeded) and self._repeat(request, status):
                again.append(request)
                return
            error = TokenFailure() if self._penalised(request) else _lost(request, status)
        if not request.replied:
            replies.append((request, error))

    def _repeat(self, request: SigningRequest, status: Status) -> bool:
        """Whether a request whose worker was lost is tried again; an UNKNOWN one is tried once more, alone.

        A use of a limited grant never is: it was counted once.
        """
        job = request.job
        if (
            request.grant.limit is not None
            or request.replied
            or request.abandoned
            or self._clock() >= job.deadline
        ):
            return False
        if self._penalised(request):
            return False
        alone = status is Status.UNKNOWN or job.alone
        if status is Status.UNKNOWN:
            if request.retried:
                return False
            request.retried = True
        request.job = Job(job.body, job.deadline, alone, request, job.client, job.cost)
        return True

    def _penalised(self, request: SigningRequest) -> bool:
        grant = request.grant
        return bool(self._penalties.pairs) and self._penalties.refuses(grant.client, grant.key)

    def _deliver(
        self, replies: list[tuple[SigningRequest, bytes | HsmdError]], *, recorded: bool = True
    ) -> None:
        """Write the outcomes if they are `recorded`, then answer the callers, with one write to each."""
        failure = self._commit_failure() if recorded else None
        callers: dict[int, Caller] = {}
        now = self._clock()
        for request, reply in replies:
            if failure is not None:
                reply = failure
            if request.allowance is not None and not request.replied:
                request.allowance.open -= 1
            request.replied = True
            caller = request.caller
            callers[id(caller)] = caller
            self._count(request, reply, now)
            if isinstance(reply, bytes):
                caller.answered(request.request_id, reply)
            else:
                caller.failed(request.request_id, reply)
        for caller in callers.values():
            caller.flush()

    def _commit_failure(self) -> AuditFailure | None:
        try:
            self._audit.commit()
        except AuditFailure as error:
            return error
        return None

    def _count(self, request: SigningRequest, reply: bytes | HsmdError, now: float) -> None:
        grant = request.grant
        purpose = purpose_label(request.job.body[0])
        if isinstance(reply, bytes):
            self.counters.count(grant.client, grant.key_name, purpose, PERFORMED)
            self.counters.took(purpose, grant.key_type.value, now - request.arrived)
        else:
            outcome = _OUTCOMES.get(reply.code, "internal")
            self.counters.count(grant.client, grant.key_name, purpose, outcome)


def _reason(error: HsmdError) -> str:
    return f"{int(error.code)} {error.text}"


def _lost(request: SigningRequest, status: Status) -> HsmdError:
    if request.abandoned:
        return DeadlineExceeded("cancelled")
    if status is Status.UNKNOWN:
        return TokenFailure("the token worker was lost during this operation")
    if request.grant.limit is not None:
        return TokenFailure(
            "the token worker was lost before this operation; the use of the grant is counted"
        )
    return DeadlineExceeded()
