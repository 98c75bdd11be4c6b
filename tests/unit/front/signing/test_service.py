"""The key service with a fake pool: what is recorded when, what is tried again, and what each caller is answered."""

from __future__ import annotations

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
from hsmd.daemon.front.access.snapshot import Grant, Snapshot
from hsmd.daemon.front.signing.hold import KeyHold, Reason
from hsmd.daemon.front.signing.service import KeyService
from hsmd.daemon.front.signing.signing_request import SigningRequest
from hsmd.daemon.front.tokens.jobs import Completion, Job, Status
from hsmd.daemon.store.records import ClientRecord, Contents, CredentialRecord, GrantRecord, KeyRecord
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

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
KEY = b"\x11" * 32
CLIENT = Identity("web", Role.FRONT_END, KeyCredential("F1"))


class Pool:
    """Takes jobs and keeps them."""

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
    """Notes what it is told."""

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


class World:
    """A service with one client, one key and one token; the clock stands still until it is moved."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.audit = AuditLog.open(directory, monotonic=lambda: self.now)
        self.pool = Pool()
        self.now = 100.0
        key = KeyRecord(
            "site", KeyType.P256, KEY, b"", with_daemon_purposes(expand(["tls-server"])), "main", NOON
        )
        client = ClientRecord("web", Role.FRONT_END, (CredentialRecord("F1", "line"),), NOON)
        grant = GrantRecord("web", "site", KEY, frozenset({Purpose.TLS13_SERVER}))
        self.snapshot = Snapshot.build(
            Contents(version=1, keys=(key,), certificates=(), clients=(client,), user_cas=(), grants=(grant,))
        )
        self.hold = KeyHold()
        self.service = KeyService(
            cache=SimpleNamespace(snapshot=self.snapshot),  # type: ignore[arg-type]
            audit=self.audit,
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
        """The log's file is away."""
        path = self.directory / "audit.jsonl"
        path.rename(path.with_suffix(".away"))
        self.now += 1.0  # names are looked at again
        try:
            yield
        finally:
            path.with_suffix(".away").rename(path)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path / "audit")
    yield made
    await made.audit.close()


def request(
    request_id: int, *, key: bytes = KEY, purpose: int = Purpose.TLS13_SERVER, ms: int = 1_000
) -> tuple[int, bytes]:
    return request_id, key_operation_body(ms, purpose, 0x0403, key, b"data %d" % request_id)


def ask(world: World, *ids: int, caller: Caller | None = None) -> Caller:
    caller = caller or Caller()
    world.service.use(caller, [request(number) for number in ids])
    return caller


# --- the straight way ---


async def test_attempts_are_written_before_the_pool_has_the_jobs(world: World) -> None:
    seen: list[int] = []
    submit = world.pool.submit

    def watch(jobs: list[Job]) -> None:
        seen.append(len([record for record in world.records() if record["event"] == "attempt"]))
        submit(jobs)

    world.pool.submit = watch  # type: ignore[method-assign]
    ask(world, 1, 2, 3)
    assert seen == [3]
    assert world.pool.batches == [3], "one batch"


async def test_outcomes_are_written_before_the_answer_leaves(world: World) -> None:
    caller = ask(world, 1, 2)
    seen: list[list[str]] = []
    answered = caller.answered

    def watch(request_id: int, answer: bytes) -> None:
        seen.append(world.results())
        answered(request_id, answer)

    caller.answered = watch  # type: ignore[method-assign]
    world.complete(
        (world.pool.jobs[0], Status.ANSWERED, b"one"), (world.pool.jobs[1], Status.ANSWERED, b"two")
    )
    assert seen == [["performed", "performed"]] * 2
    assert (caller.replies, caller.flushes) == ([(1, b"one"), (2, b"two")], 1)


async def test_each_caller_is_flushed_once_for_a_batch(world: World) -> None:
    callers = [ask(world, 1, 2), ask(world, 1, 2)]
    world.complete(*((job, Status.ANSWERED, b"x") for job in world.pool.jobs))
    assert [caller.flushes for caller in callers] == [1, 1]


async def test_a_malformed_operation_ends_the_batch_behind_it(world: World) -> None:
    caller = Caller()
    with pytest.raises(ProtocolError):
        world.service.use(caller, [request(1), (2, b"short"), request(3)])
    assert [job.context.request_id for job in world.pool.jobs] == [1]


# --- deciding ---


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"key": b"\x12" * 32}, "unknown-key"),
        ({"purpose": Purpose.TLS12_SERVER}, "purpose-not-granted"),
        ({"purpose": Purpose.SIGN_DIGEST}, "purpose-outside-ceiling"),
    ],
)
async def test_refusals_reach_neither_pool_nor_peer_with_their_rule(
    world: World, changes: Any, rule: str
) -> None:
    caller = Caller()
    world.service.use(caller, [request(1, **changes)])
    reply = caller.reply(1)
    assert isinstance(reply, Refused)
    assert (reply.text, world.pool.jobs) == ("refused", [])
    assert world.records()[-1]["rule"] == rule


async def test_a_certificate_is_looked_at_with_every_request(world: World) -> None:
    """The moment it ends, uses end; the snapshot need not change for that."""
    identity = Identity("web", Role.FRONT_END, KeyCredential("F1"), expires_at=NOON + timedelta(seconds=1))
    caller = ask(world, 1, caller=Caller(identity))
    assert world.pool.jobs
    ended = Caller(Identity("web", Role.FRONT_END, KeyCredential("F1"), expires_at=NOON))
    ask(world, 2, caller=ended)
    assert isinstance(ended.reply(2), Refused)
    assert caller.replies == []


async def test_draining_takes_nothing_new_and_finishes_the_rest(world: World) -> None:
    caller = ask(world, 1)
    world.service.drain()
    ask(world, 2, caller=caller)
    world.service.use(caller, [request(3, key=b"\x12" * 32)])
    assert isinstance(caller.reply(2), Draining)
    assert isinstance(caller.reply(3), Refused)
    world.complete((world.pool.jobs[0], Status.ANSWERED, b"x"))
    assert caller.reply(1) == b"x"


async def test_a_token_that_is_not_configured_is_unavailable(world: World) -> None:
    world.service._pools = {}  # type: ignore[assignment]
    caller = ask(world, 1)
    assert isinstance(caller.reply(1), Unavailable)
    assert world.results() == ["failed"]
    world.service.abandon(caller.accepted)  # does not raise


# --- lost workers (decision 1) ---


async def test_a_job_that_never_began_is_tried_again_without_using_up_its_repetition(world: World) -> None:
    caller = ask(world, 1)
    for _ in range(3):
        world.complete((world.pool.jobs[-1], Status.NOT_PERFORMED))
    assert len(world.pool.jobs) == 4
    assert not any(job.alone for job in world.pool.jobs)
    world.complete((world.pool.jobs[-1], Status.UNKNOWN))
    assert world.pool.jobs[-1].alone, "only now its one repetition"
    world.complete((world.pool.jobs[-1], Status.ANSWERED, b"x"))
    assert caller.reply(1) == b"x"
    assert world.results() == ["not-performed"] * 3 + ["unknown", "performed"]
    attempts = [record["index"] for record in world.records() if record["event"] == "attempt"]
    assert len(attempts) == 5, "each submission has an attempt of its own"


async def test_an_unknown_one_is_tried_once_more_alone_and_then_given_up(world: World) -> None:
    caller = ask(world, 1)
    world.complete((world.pool.jobs[0], Status.UNKNOWN))
    assert [job.alone for job in world.pool.jobs] == [False, True]
    world.complete((world.pool.jobs[1], Status.NOT_PERFORMED))
    assert world.pool.jobs[2].alone, "still to be alone"
    world.complete((world.pool.jobs[2], Status.UNKNOWN))
    assert len(world.pool.jobs) == 3
    assert isinstance(caller.reply(1), TokenFailure)
    assert world.results() == ["unknown", "not-performed", "unknown"]


async def test_a_repetition_keeps_the_deadline_and_ends_with_it(world: World) -> None:
    caller = ask(world, 1)
    deadline = world.pool.jobs[0].deadline
    assert deadline == 101.0
    world.now = 100.9
    world.complete((world.pool.jobs[0], Status.NOT_PERFORMED))
    assert world.pool.jobs[1].deadline == deadline
    world.now = 101.0
    world.complete((world.pool.jobs[1], Status.NOT_PERFORMED))
    assert len(world.pool.jobs) == 2
    assert isinstance(caller.reply(1), DeadlineExceeded)


async def test_what_the_worker_skipped_as_too_late_is_not_tried_again(world: World) -> None:
    caller = ask(world, 1)
    world.service.completed([Completion(world.pool.jobs[0], Status.NOT_PERFORMED, error=DeadlineExceeded())])
    assert len(world.pool.jobs) == 1
    assert isinstance(caller.reply(1), DeadlineExceeded)


async def test_an_expired_job_is_answered_once_and_closed_when_its_answer_comes(world: World) -> None:
    caller = ask(world, 1)
    world.complete((world.pool.jobs[0], Status.EXPIRED))
    assert isinstance(caller.reply(1), DeadlineExceeded)
    assert world.results() == [], "the worker still has it"
    world.complete((world.pool.jobs[0], Status.LATE, b"late"))
    assert len(caller.replies) == 1
    (outcome,) = [record for record in world.records() if record["event"] == "outcome"]
    assert outcome["result"] == "performed"
    assert "answer" in outcome


@pytest.mark.parametrize(
    ("status", "result"), [(Status.UNKNOWN, "unknown"), (Status.NOT_PERFORMED, "not-performed")]
)
async def test_an_expired_job_of_a_lost_worker_is_not_tried_again(
    world: World, status: Status, result: str
) -> None:
    caller = ask(world, 1)
    world.complete((world.pool.jobs[0], Status.EXPIRED))
    world.complete((world.pool.jobs[0], status))
    assert len(world.pool.jobs) == 1
    assert len(caller.replies) == 1
    assert world.results() == [result]


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (PurposeMismatch("not TLS"), "refused"),
        (Refused(), "refused"),
        (TokenFailure(), "failed"),
        (None, "failed"),
    ],
)
async def test_failures_of_the_worker_are_passed_on(
    world: World, error: HsmdError | None, result: str
) -> None:
    caller = ask(world, 1)
    world.service.completed([Completion(world.pool.jobs[0], Status.FAILED, error=error)])
    reply = caller.reply(1)
    assert isinstance(reply, type(error) if error else TokenFailure)
    assert world.results() == [result]


# --- callers that go away ---


async def test_abandoned_jobs_are_neither_tried_again_nor_left_open(world: World) -> None:
    caller = ask(world, 1, 2)
    world.service.abandon(caller.accepted)
    assert world.pool.abandoned == world.pool.jobs
    world.complete((world.pool.jobs[0], Status.NOT_PERFORMED), (world.pool.jobs[1], Status.UNKNOWN))
    assert len(world.pool.jobs) == 2
    assert world.results() == ["not-performed", "unknown"]


async def test_abandoning_reaches_the_job_of_a_repetition(world: World) -> None:
    caller = ask(world, 1)
    world.complete((world.pool.jobs[0], Status.NOT_PERFORMED))
    world.service.abandon(caller.accepted)
    assert world.pool.abandoned == [world.pool.jobs[1]]


# --- a log that cannot be written (decision 8) ---


async def test_without_an_attempt_on_record_nothing_reaches_the_token(world: World) -> None:
    with world.unwritable():
        caller = ask(world, 1, 2)
        assert world.pool.jobs == []
        assert [type(reply) for _, reply in caller.replies] == [AuditFailure, AuditFailure]
        assert caller.flushes == 1
    world.now += 1
    again = ask(world, 3)
    world.complete((world.pool.jobs[0], Status.ANSWERED, b"x"))
    assert again.reply(3) == b"x", "it recovers by itself"


async def test_without_an_outcome_on_record_no_answer_leaves(world: World) -> None:
    caller = ask(world, 1)
    with world.unwritable():
        world.complete((world.pool.jobs[0], Status.ANSWERED, b"secret"))
        assert isinstance(caller.reply(1), AuditFailure)
    world.now += 1
    world.audit.commit()
    (outcome,) = [record for record in world.records() if record["event"] == "outcome"]
    assert outcome["result"] == "performed", "what happened is told as soon as there is room"


async def test_a_repetition_that_cannot_be_recorded_is_not_made(world: World) -> None:
    caller = ask(world, 1)
    with world.unwritable():
        world.complete((world.pool.jobs[0], Status.NOT_PERFORMED))
        assert len(world.pool.jobs) == 1
        assert isinstance(caller.reply(1), AuditFailure)
    world.now += 1
    world.audit.commit()
    attempts = {record["index"] for record in world.records() if record["event"] == "attempt"}
    assert attempts == {record["attempt"] for record in world.records() if record["event"] == "outcome"}


# --- the daemon's own operations ---


async def test_the_daemon_signs_on_behalf_of_an_operator_with_a_record(world: World) -> None:
    operator = Caller(Identity("ann", Role.OPERATOR, KeyCredential("FA")))
    grant = Grant("ann", "site", KEY, int(Purpose.X509_REQUEST), "main", KeyType.P256, 1.0)
    use = world.service.use_for_daemon(operator, grant, Purpose.X509_REQUEST, 0x0403, b"info", 105.0)
    world.complete((world.pool.jobs[0], Status.ANSWERED, b"signature"))
    assert operator.reply(1) == b"signature"
    assert use.replied
    (attempt,) = [record for record in world.records() if record["event"] == "attempt"]
    assert (attempt["client"], attempt["purpose"]) == ("ann", "x509-request")


async def test_counts_add_up(world: World) -> None:
    ask(world, 1, 2)
    world.service.use(Caller(), [request(1, key=b"\0" * 32)])
    world.complete((world.pool.jobs[0], Status.ANSWERED, b"x"))
    world.service.completed([Completion(world.pool.jobs[1], Status.FAILED, error=TokenFailure())])
    assert world.service.counters.totals() == {"refused": 1, "performed": 1, "token": 1}
    assert world.service.counters.counts == {
        ("web", "site", "tls13-server", "performed"): 1,
        ("web", "site", "tls13-server", "token"): 1,
        ("web", "other", "tls13-server", "refused"): 1,
    }
    assert sum(world.service.counters.latencies["tls13-server", "p-256"].counts) == 1


# --- holds ---


@pytest.mark.parametrize(
    ("reason", "why"),
    [(Reason.CONTINUITY, AuditFailure()), (Reason.DISK, AuditFailure()), (Reason.STORE, StoreFailure())],
    ids=["log", "disk", "store"],
)
async def test_while_keys_are_held_nothing_is_tried_or_recorded(
    world: World, reason: Reason, why: HsmdError
) -> None:
    world.hold.set(reason, why)
    caller = ask(world, 1)
    assert caller.replies == [(1, why)]
    assert not world.pool.jobs
    assert not world.records()
    world.hold.set(reason, None)
    ask(world, 2)
    assert len(world.pool.jobs) == 1


def test_the_log_is_named_before_the_store_and_a_reason_begins_and_ends_once() -> None:
    hold, log, store = KeyHold(), AuditFailure(), StoreFailure()
    assert [hold.set(Reason.STORE, error) for error in (None, store, store)] == [False, True, False]
    assert (hold.set(Reason.DISK, log), hold.error) == (True, log)
    assert (hold.set(Reason.DISK, None), hold.error) == (True, store)
    assert (hold.set(Reason.STORE, None), hold.error) == (True, None)


async def test_a_full_token_costs_no_record_and_no_share(world: World) -> None:
    world.pool.full = Overloaded(retry_after_ms=7)
    caller = ask(world, 1, 2, 3)
    assert [error for _, error in caller.replies] == [world.pool.full] * 3
    assert not world.records()
    assert world.service._limits.of("ann", world.now).open == 0
