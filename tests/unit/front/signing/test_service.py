"""The key service with a fake pool: what is recorded when, what is tried again, and what each caller is answered."""

from __future__ import annotations

import gc
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hsmd.algorithms import KeyType
from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.front.access.credentials import KeyCredential
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot import Grant
from hsmd.daemon.front.signing.hold import KeyHold, Reason
from hsmd.daemon.front.signing.service import KeyService
from hsmd.daemon.front.signing.signing_request import SigningRequest
from hsmd.daemon.front.tokens.jobs import Completion, Job, Status
from hsmd.daemon.store.contents import Contents
from hsmd.daemon.store.records import ClientRecord, CredentialRecord, GrantRecord, KeyRecord
from hsmd.errors import (
    AuditFailure,
    DeadlineExceeded,
    Draining,
    HsmdError,
    Overloaded,
    ProtocolError,
    PurposeMismatch,
    Refused,
    StoreFailure,
    TokenFailure,
    Unavailable,
)
from hsmd.protocol.frames import key_operation_body
from hsmd.protocol.roles import Role
from hsmd.purposes import Purpose, expand, with_daemon_purposes
from tests.support.snapshots import snapshot_of

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
KEY = b"\x11" * 32
CLIENT = Identity("web", frozenset({Role.FRONT_END}), KeyCredential("F1"))


class Pool:
    """Records the jobs it is given."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.batches: list[int] = []
        self.abandoned: list[Job] = []

        self.full: HsmdError | None = None

    def refused(self, jobs: list[Job]) -> list[tuple[Job, HsmdError]]:
        return [(job, self.full) for job in jobs] if self.full else []

    def submit(self, jobs: list[Job]) -> None:
        self.jobs += jobs
        self.batches.append(len(jobs))

    def abandon(self, job: Job) -> None:
        self.abandoned.append(job)


@dataclass
class Caller:
    """Records the answers and errors it is given."""

    identity: Identity = CLIENT
    open_requests: dict[int, SigningRequest | None] = field(default_factory=dict)
    replies: list[tuple[int, bytes | HsmdError]] = field(default_factory=list)
    flushes: int = 0

    @property
    def accepted(self) -> list[SigningRequest]:
        return [request for request in self.open_requests.values() if request is not None]

    def answered(self, request_id: int, answer: bytes) -> None:
        self.replies.append((request_id, answer))

    def failed(self, request_id: int, error: HsmdError) -> None:
        self.replies.append((request_id, error))

    def flush(self) -> None:
        self.flushes += 1

    def reply(self, request_id: int) -> bytes | HsmdError:
        (reply,) = [reply for found, reply in self.replies if found == request_id]
        return reply


class Harness:
    """A service with one client, one key and one token; the clock advances only when the test sets it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.audit = AuditLog.open(directory, monotonic=lambda: self.now)
        self.pool = Pool()
        self.now = 100.0
        key = KeyRecord(
            "site", KeyType.P256, KEY, b"", with_daemon_purposes(expand(["tls-server"])), "main", NOON
        )
        client = ClientRecord("web", frozenset({Role.FRONT_END}), (CredentialRecord("F1", "line"),), NOON)
        grant = GrantRecord("web", "site", KEY, frozenset({Purpose.TLS13_SERVER}))
        self.snapshot = snapshot_of(
            Contents(version=1, keys=(key,), certificates=(), clients=(client,), user_cas=(), grants=(grant,))
        )
        self.hold = KeyHold()
        self.service = KeyService(
            cache=SimpleNamespace(snapshot=self.snapshot),  # type: ignore[arg-type]
            audit=self.audit,
            origin="hsmd.example/log",
            pools={"main": self.pool},  # type: ignore[dict-item]
            clock=lambda: self.now,
            now=lambda: NOON,
            hold=self.hold,
        )

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.directory / "audit.jsonl").read_text().splitlines()]

    def results(self) -> list[str]:
        return [record["result"] for record in self.records() if record["event"] == "outcome"]

    def complete(self, *completions: tuple[Job, Status] | tuple[Job, Status, bytes] | Completion) -> None:
        self.service.completed([Completion(*each) for each in completions])  # type: ignore[arg-type]

    @contextmanager
    def unwritable(self) -> Iterator[None]:
        """Within this context the log's file is missing."""
        path = self.directory / "audit.jsonl"
        path.rename(path.with_suffix(".away"))
        self.now += 1.0  # the log checks its file's name again
        try:
            yield
        finally:
            path.with_suffix(".away").rename(path)


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    made = Harness(tmp_path / "audit")
    yield made
    await made.audit.close()


def request(
    request_id: int, *, key: bytes = KEY, purpose: int = Purpose.TLS13_SERVER, ms: int = 1_000
) -> tuple[int, bytes]:
    return request_id, key_operation_body(ms, purpose, 0x0403, key, b"data %d" % request_id)


def ask(harness: Harness, *ids: int, caller: Caller | None = None) -> Caller:
    caller = caller or Caller()
    harness.service.use(caller, [request(number) for number in ids])
    return caller


# --- requests that succeed ---


async def test_attempts_are_written_before_jobs_are_submitted_to_the_pool(harness: Harness) -> None:
    seen: list[int] = []
    submit = harness.pool.submit

    def watch(jobs: list[Job]) -> None:
        seen.append(len([record for record in harness.records() if record["event"] == "attempt"]))
        submit(jobs)

    harness.pool.submit = watch  # type: ignore[method-assign]
    ask(harness, 1, 2, 3)
    assert seen == [3]
    assert harness.pool.batches == [3], "one batch"


async def test_outcomes_are_written_before_answers_are_sent(harness: Harness) -> None:
    caller = ask(harness, 1, 2)
    seen: list[list[str]] = []
    answered = caller.answered

    def watch(request_id: int, answer: bytes) -> None:
        seen.append(harness.results())
        answered(request_id, answer)

    caller.answered = watch  # type: ignore[method-assign]
    harness.complete(
        (harness.pool.jobs[0], Status.ANSWERED, b"one"), (harness.pool.jobs[1], Status.ANSWERED, b"two")
    )
    assert seen == [["performed", "performed"]] * 2
    assert (caller.replies, caller.flushes) == ([(1, b"one"), (2, b"two")], 1)


@pytest.mark.parametrize("status", [Status.ANSWERED, Status.FAILED, Status.NOT_PERFORMED])
async def test_a_request_that_is_over_leaves_nothing_to_the_garbage_collector(
    harness: Harness, status: Status
) -> None:
    """Signatures left 9 MiB before they were collected, with a pause for all clients; long data is up to 64 KiB each."""
    with uncollected(harness) as caller:
        ask(harness, *range(1, 101), caller=caller)
        error = None if status is Status.ANSWERED else DeadlineExceeded()
        harness.complete(*(Completion(job, status, b"x", error) for job in harness.pool.jobs))


async def test_a_request_that_is_not_begun_leaves_nothing_to_the_garbage_collector(harness: Harness) -> None:
    harness.pool.full = Overloaded()
    with uncollected(harness) as caller:
        ask(harness, *range(1, 101), caller=caller)
    harness.pool.full = None
    with harness.unwritable(), uncollected(harness) as caller:
        ask(harness, *range(1, 101), caller=caller)
    assert harness.pool.jobs == []


@contextmanager
def uncollected(harness: Harness) -> Iterator[Caller]:
    """The block leaves no cycles; yields the caller to use."""
    caller = Caller()
    gc.disable()
    try:
        gc.collect()
        yield caller
        assert len(caller.replies) == 100
        harness.pool.jobs.clear()
        caller.open_requests.clear()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        assert not [each for each in gc.garbage if isinstance(each, SigningRequest | Job)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


async def test_long_data_costs_more(harness: Harness) -> None:
    ask(harness, 1)
    body = key_operation_body(1_000, Purpose.TLS13_SERVER, 0x0403, KEY, bytes(60_000))
    harness.service.use(Caller(), [(2, body)])
    assert [each.cost for each in harness.pool.jobs] == [1.0, 8.0]


async def test_each_caller_is_flushed_once_per_batch(harness: Harness) -> None:
    callers = [ask(harness, 1, 2), ask(harness, 1, 2)]
    harness.complete(*((job, Status.ANSWERED, b"x") for job in harness.pool.jobs))
    assert [caller.flushes for caller in callers] == [1, 1]


async def test_a_malformed_operation_ends_its_batch(harness: Harness) -> None:
    caller = Caller()
    with pytest.raises(ProtocolError):
        harness.service.use(caller, [request(1), (2, b"short"), request(3)])
    assert [job.context.request_id for job in harness.pool.jobs] == [1]


# --- access decisions ---


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"key": b"\x12" * 32}, "unknown-key"),
        ({"purpose": Purpose.TLS12_SERVER}, "purpose-not-granted"),
        ({"purpose": Purpose.SIGN_DIGEST}, "purpose-outside-ceiling"),
    ],
)
async def test_refusals_do_not_reach_the_pool_and_hide_their_rule_from_the_peer(
    harness: Harness, changes: Any, rule: str
) -> None:
    caller = Caller()
    harness.service.use(caller, [request(1, **changes)])
    reply = caller.reply(1)
    assert isinstance(reply, Refused)
    assert (reply.text, harness.pool.jobs) == ("refused", [])
    assert harness.records()[-1]["rule"] == rule


async def test_a_certificate_is_checked_with_every_request(harness: Harness) -> None:
    """Requests are refused from the end of the certificate on, without a change of the snapshot."""
    identity = Identity(
        "web", frozenset({Role.FRONT_END}), KeyCredential("F1"), expires_at=NOON + timedelta(seconds=1)
    )
    caller = ask(harness, 1, caller=Caller(identity))
    assert harness.pool.jobs
    ended = Caller(Identity("web", frozenset({Role.FRONT_END}), KeyCredential("F1"), expires_at=NOON))
    ask(harness, 2, caller=ended)
    assert isinstance(ended.reply(2), Refused)
    assert caller.replies == []


async def test_a_draining_service_accepts_no_request_and_completes_the_others(harness: Harness) -> None:
    caller = ask(harness, 1)
    harness.service.drain()
    ask(harness, 2, caller=caller)
    harness.service.use(caller, [request(3, key=b"\x12" * 32)])
    assert isinstance(caller.reply(2), Draining)
    assert isinstance(caller.reply(3), Refused)
    harness.complete((harness.pool.jobs[0], Status.ANSWERED, b"x"))
    assert caller.reply(1) == b"x"


async def test_a_token_that_is_not_configured_is_unavailable(harness: Harness) -> None:
    harness.service._pools = {}  # type: ignore[assignment]
    caller = ask(harness, 1)
    assert isinstance(caller.reply(1), Unavailable)
    assert harness.results() == ["failed"]
    harness.service.abandon(caller.accepted)  # does not raise


# --- lost workers ---


async def test_a_job_that_never_began_is_retried_and_keeps_its_repetition(harness: Harness) -> None:
    caller = ask(harness, 1)
    for _ in range(3):
        harness.complete((harness.pool.jobs[-1], Status.NOT_PERFORMED))
    assert len(harness.pool.jobs) == 4
    assert not any(job.alone for job in harness.pool.jobs)
    harness.complete((harness.pool.jobs[-1], Status.UNKNOWN))
    assert harness.pool.jobs[-1].alone, "its one repetition begins only now"
    harness.complete((harness.pool.jobs[-1], Status.ANSWERED, b"x"))
    assert caller.reply(1) == b"x"
    assert harness.results() == ["not-performed"] * 3 + ["unknown", "performed"]
    attempts = [record["index"] for record in harness.records() if record["event"] == "attempt"]
    assert len(attempts) == 5, "each submission has its own attempt"


async def test_a_job_with_an_unknown_result_is_repeated_once_alone(harness: Harness) -> None:
    caller = ask(harness, 1)
    harness.complete((harness.pool.jobs[0], Status.UNKNOWN))
    assert [job.alone for job in harness.pool.jobs] == [False, True]
    harness.complete((harness.pool.jobs[1], Status.NOT_PERFORMED))
    assert harness.pool.jobs[2].alone, "it must still run alone"
    harness.complete((harness.pool.jobs[2], Status.UNKNOWN))
    assert len(harness.pool.jobs) == 3
    assert isinstance(caller.reply(1), TokenFailure)
    assert harness.results() == ["unknown", "not-performed", "unknown"]


async def test_a_repetition_keeps_the_deadline(harness: Harness) -> None:
    caller = ask(harness, 1)
    deadline = harness.pool.jobs[0].deadline
    assert deadline == 101.0
    harness.now = 100.9
    harness.complete((harness.pool.jobs[0], Status.NOT_PERFORMED))
    assert harness.pool.jobs[1].deadline == deadline
    harness.now = 101.0
    harness.complete((harness.pool.jobs[1], Status.NOT_PERFORMED))
    assert len(harness.pool.jobs) == 2
    assert isinstance(caller.reply(1), DeadlineExceeded)


async def test_a_job_skipped_at_its_deadline_is_not_retried(harness: Harness) -> None:
    caller = ask(harness, 1)
    harness.service.completed(
        [Completion(harness.pool.jobs[0], Status.NOT_PERFORMED, error=DeadlineExceeded())]
    )
    assert len(harness.pool.jobs) == 1
    assert isinstance(caller.reply(1), DeadlineExceeded)


async def test_an_expired_job_is_answered_once_and_recorded_when_its_result_arrives(harness: Harness) -> None:
    caller = ask(harness, 1)
    harness.complete((harness.pool.jobs[0], Status.EXPIRED))
    assert isinstance(caller.reply(1), DeadlineExceeded)
    assert harness.results() == [], "the worker still has it"
    harness.complete((harness.pool.jobs[0], Status.LATE, b"late"))
    assert len(caller.replies) == 1
    (outcome,) = [record for record in harness.records() if record["event"] == "outcome"]
    assert outcome["result"] == "performed"
    assert "answer" in outcome


@pytest.mark.parametrize(
    ("status", "result"), [(Status.UNKNOWN, "unknown"), (Status.NOT_PERFORMED, "not-performed")]
)
async def test_an_expired_job_of_a_lost_worker_is_not_retried(
    harness: Harness, status: Status, result: str
) -> None:
    caller = ask(harness, 1)
    harness.complete((harness.pool.jobs[0], Status.EXPIRED))
    harness.complete((harness.pool.jobs[0], status))
    assert len(harness.pool.jobs) == 1
    assert len(caller.replies) == 1
    assert harness.results() == [result]


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (PurposeMismatch("not TLS"), "refused"),
        (Refused(), "refused"),
        (TokenFailure(), "failed"),
        (None, "failed"),
    ],
)
async def test_errors_of_the_worker_are_returned(
    harness: Harness, error: HsmdError | None, result: str
) -> None:
    caller = ask(harness, 1)
    harness.service.completed([Completion(harness.pool.jobs[0], Status.FAILED, error=error)])
    reply = caller.reply(1)
    assert isinstance(reply, type(error) if error else TokenFailure)
    assert harness.results() == [result]


# --- callers that disconnect ---


async def test_abandoned_jobs_are_not_retried_and_get_an_outcome(harness: Harness) -> None:
    caller = ask(harness, 1, 2)
    harness.service.abandon(caller.accepted)
    assert harness.pool.abandoned == harness.pool.jobs
    harness.complete((harness.pool.jobs[0], Status.NOT_PERFORMED), (harness.pool.jobs[1], Status.UNKNOWN))
    assert len(harness.pool.jobs) == 2
    assert harness.results() == ["not-performed", "unknown"]


async def test_abandoning_applies_to_the_job_of_a_repetition(harness: Harness) -> None:
    caller = ask(harness, 1)
    harness.complete((harness.pool.jobs[0], Status.NOT_PERFORMED))
    harness.service.abandon(caller.accepted)
    assert harness.pool.abandoned == [harness.pool.jobs[1]]


# --- a log that cannot be written ---


async def test_without_a_recorded_attempt_no_job_reaches_the_token(harness: Harness) -> None:
    with harness.unwritable():
        caller = ask(harness, 1, 2)
        assert harness.pool.jobs == []
        assert [type(reply) for _, reply in caller.replies] == [AuditFailure, AuditFailure]
        assert caller.flushes == 1
    harness.now += 1
    again = ask(harness, 3)
    harness.complete((harness.pool.jobs[0], Status.ANSWERED, b"x"))
    assert again.reply(3) == b"x", "the service recovers without a restart"


async def test_without_a_recorded_outcome_no_answer_is_sent(harness: Harness) -> None:
    caller = ask(harness, 1)
    with harness.unwritable():
        harness.complete((harness.pool.jobs[0], Status.ANSWERED, b"secret"))
        assert isinstance(caller.reply(1), AuditFailure)
    harness.now += 1
    harness.audit.commit()
    (outcome,) = [record for record in harness.records() if record["event"] == "outcome"]
    assert outcome["result"] == "performed", "the outcome is recorded once the log can be written"


async def test_a_repetition_that_cannot_be_recorded_is_not_made(harness: Harness) -> None:
    caller = ask(harness, 1)
    with harness.unwritable():
        harness.complete((harness.pool.jobs[0], Status.NOT_PERFORMED))
        assert len(harness.pool.jobs) == 1
        assert isinstance(caller.reply(1), AuditFailure)
    harness.now += 1
    harness.audit.commit()
    attempts = {record["index"] for record in harness.records() if record["event"] == "attempt"}
    assert attempts == {record["attempt"] for record in harness.records() if record["event"] == "outcome"}


# --- the daemon's own operations ---


async def test_the_daemon_signs_on_behalf_of_an_operator_with_a_record(harness: Harness) -> None:
    operator = Caller(Identity("ann", frozenset({Role.OPERATOR}), KeyCredential("FA")))
    grant = Grant("ann", "site", KEY, int(Purpose.X509_REQUEST), "main", KeyType.P256, 1.0)
    use = harness.service.use_for_daemon(operator, grant, Purpose.X509_REQUEST, 0x0403, b"info", 105.0)
    harness.complete((harness.pool.jobs[0], Status.ANSWERED, b"signature"))
    assert operator.reply(1) == b"signature"
    assert use.replied
    (attempt,) = [record for record in harness.records() if record["event"] == "attempt"]
    assert (attempt["client"], attempt["purpose"]) == ("ann", "x509-request")


async def test_operations_are_counted_by_result(harness: Harness) -> None:
    ask(harness, 1, 2)
    harness.service.use(Caller(), [request(1, key=b"\0" * 32)])
    harness.complete((harness.pool.jobs[0], Status.ANSWERED, b"x"))
    harness.service.completed([Completion(harness.pool.jobs[1], Status.FAILED, error=TokenFailure())])
    assert harness.service.counters.totals() == {"refused": 1, "performed": 1, "token": 1}
    assert harness.service.counters.counts == {
        ("web", "site", "tls13-server", "performed"): 1,
        ("web", "site", "tls13-server", "token"): 1,
        ("web", "other", "tls13-server", "refused"): 1,
    }
    assert sum(harness.service.counters.latencies["tls13-server", "p-256"].counts) == 1


# --- held keys ---


@pytest.mark.parametrize(
    ("reason", "why"),
    [(Reason.CONTINUITY, AuditFailure()), (Reason.DISK, AuditFailure()), (Reason.STORE, StoreFailure())],
    ids=["log", "disk", "store"],
)
async def test_while_keys_are_held_no_request_is_submitted_or_recorded(
    harness: Harness, reason: Reason, why: HsmdError
) -> None:
    harness.hold.set(reason, why)
    caller = ask(harness, 1)
    assert caller.replies == [(1, why)]
    assert not harness.pool.jobs
    assert not harness.records()
    harness.hold.set(reason, None)
    ask(harness, 2)
    assert len(harness.pool.jobs) == 1


def test_a_log_error_precedes_a_store_error_and_changes_are_reported_once() -> None:
    hold, log, store = KeyHold(), AuditFailure(), StoreFailure()
    assert [hold.set(Reason.STORE, error) for error in (None, store, store)] == [False, True, False]
    assert (hold.set(Reason.DISK, log), hold.error) == (True, log)
    assert (hold.set(Reason.DISK, None), hold.error) == (True, store)
    assert (hold.set(Reason.STORE, None), hold.error) == (True, None)


async def test_an_overloaded_token_causes_no_record_and_uses_no_allowance(harness: Harness) -> None:
    harness.pool.full = Overloaded(retry_after_ms=7)
    caller = ask(harness, 1, 2, 3)
    assert [error for _, error in caller.replies] == [harness.pool.full] * 3
    assert not harness.records()
    assert harness.service._limits.of("ann", harness.now).open == 0
