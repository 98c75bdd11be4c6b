"""Uses of limited grants with a real store and a fake pool: counted before the token is asked, and never repeated."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmd.algorithms import SignatureScheme
from hsmd.daemon.audit.log import AuditLog
from hsmd.daemon.audit.refusals import BURST
from hsmd.daemon.front.access.credentials import KeyCredential
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.access.snapshot import Grant
from hsmd.daemon.front.access.snapshot_cache import SnapshotCache
from hsmd.daemon.front.signing.limited_uses import (
    COUNT_TIMEOUT_S,
    MAX_IN_TRANSACTION,
    MAX_WAITING,
    MAX_WAITING_OF_ONE,
)
from hsmd.daemon.front.signing.rate_limits import RateLimit, RateLimits
from hsmd.daemon.front.signing.service import KeyService
from hsmd.daemon.front.signing.signing_request import SigningRequest
from hsmd.daemon.front.tokens.jobs import Completion, Job, Status
from hsmd.daemon.pki import certificate_request
from hsmd.daemon.store import (
    CountedUse,
    CredentialRecord,
    Limits,
    NotCounted,
    Store,
    Transaction,
    UseId,
    WantedUse,
)
from hsmd.errors import (
    AuditFailure,
    DeadlineExceeded,
    Draining,
    HsmdError,
    Overloaded,
    PurposeMismatch,
    Refused,
    StoreFailure,
    TokenFailure,
    Unavailable,
)
from hsmd.protocol.frames import key_operation_body
from hsmd.protocol.roles import Role
from hsmd.purposes import AllowedNames, Purpose
from hsmd.system.accounts import Tariff
from hsmd.system.intake import Intake, Intakes, paying
from tests.support.polling import eventually
from tests.support.store import key_record

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
TLS13, TLS12, CSR = Purpose.TLS13_SERVER, Purpose.TLS12_SERVER, Purpose.X509_REQUEST
SITE = key_record("site")
WEB = Identity("web", frozenset({Role.FRONT_END}), KeyCredential("SHA256:" + "w" * 43))
R = TypeVar("R")
ORIGIN = "front.example/log"
NAMES = AllowedNames.of(["*.example.com"]).to_json()


class Pool:
    """Records the jobs it is given."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.full: HsmdError | None = None

    def refused(self, jobs: list[Job]) -> list[tuple[Job, HsmdError]]:
        return [(job, self.full) for job in jobs] if self.full else []

    def submit(self, jobs: list[Job]) -> None:
        self.jobs += jobs

    def abandon(self, job: Job) -> None:
        job.abandoned = True


class Cache(SnapshotCache):
    """Counts in the store when `gate` is open; fails with `fault` instead if there is one."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.gate = asyncio.Event()
        self.gate.set()
        self.fault: Exception | None = None
        self.counts_first = False
        self.settling_fault: Exception | None = None
        self.batches: list[int] = []
        self.payers: list[Intake | None] = []

    async def count_uses(
        self, uses: Sequence[WantedUse], recorded: Collection[UseId], now: datetime
    ) -> list[CountedUse | NotCounted]:
        self.batches.append(len(uses))
        self.payers.append(paying.get())
        await self.gate.wait()
        if self.fault is not None and not self.counts_first:
            raise self.fault
        decided = await super().count_uses(uses, recorded, now)
        if self.fault is not None:
            raise self.fault
        return decided

    async def change_unversioned(self, action: Callable[[Transaction], R]) -> R:
        if self.settling_fault is not None:
            raise self.settling_fault
        return await super().change_unversioned(action)


@dataclass
class Caller:
    """Records the answers and errors it is given."""

    identity: Identity = WEB
    open_requests: dict[int, SigningRequest | None] = field(default_factory=dict)
    replies: dict[int, bytes | HsmdError] = field(default_factory=dict)

    def answered(self, request_id: int, answer: bytes) -> None:
        assert request_id not in self.replies
        self.replies[request_id] = answer

    def failed(self, request_id: int, error: HsmdError) -> None:
        assert request_id not in self.replies
        self.replies[request_id] = error

    def flush(self) -> None:
        pass


class Harness:
    """A service whose client may use one key three times for tls13-server, and without limits for tls12-server."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "audit" / "audit.jsonl"
        self.store = Store(f"sqlite:///{directory}/store.db")
        self.store.migrate()
        self.now, self.date = 100.0, NOON
        credential = CredentialRecord("SHA256:" + "w" * 43, "line")
        self.store.change(lambda tx: tx.keys.add(SITE))
        self.store.change(lambda tx: tx.clients.add("web", frozenset({Role.FRONT_END}), NOON, credential))
        self.store.change(lambda tx: tx.grants.add("web", "site", [TLS12]))
        self.limit(Limits(max_uses=3))
        self.cache = Cache(self.store)
        self.audit = AuditLog.open(self.path.parent, monotonic=lambda: self.now)
        self.pool = Pool()
        self.limits = RateLimits(RateLimit(1_000_000, 1_000_000))
        self.service = KeyService(
            cache=self.cache,
            audit=self.audit,
            origin=ORIGIN,
            pools={"main": self.pool},  # type: ignore[dict-item]
            clock=lambda: self.now,
            now=lambda: self.date,
            limits=self.limits,
        )

    def limit(self, limits: Limits, purpose: Purpose = TLS13) -> None:
        self.store.change(lambda tx: tx.limited_grants.add("web", "site", [purpose], limits, NOON))

    def add_client(self, name: str) -> Identity:
        """A further client that may use the key for tls13-server a thousand times."""
        credential = CredentialRecord("SHA256:" + name.ljust(43, "m"), "line")
        roles, limits = frozenset({Role.FRONT_END}), Limits(max_uses=1_000)
        self.store.change(lambda tx: tx.clients.add(name, roles, NOON, credential))
        self.store.change(lambda tx: tx.limited_grants.add(name, "site", [TLS13], limits, NOON))
        return Identity(name, roles, KeyCredential(credential.fingerprint))

    def ask(
        self, *ids: int, purpose: Purpose = TLS13, ms: int = 60_000, caller: Caller | None = None
    ) -> Caller:
        caller = caller or Caller()
        self.service.use(
            caller, [(n, key_operation_body(ms, purpose, 0x0403, SITE.digest, b"data %d" % n)) for n in ids]
        )
        return caller

    async def submitted(self, count: int) -> list[Job]:
        await eventually(lambda: len(self.pool.jobs) >= count)
        return self.pool.jobs

    def records(self, event: str) -> list[dict[str, Any]]:
        lines = self.path.read_text().splitlines()
        return [record for record in map(json.loads, lines) if record["event"] == event]

    @property
    def used(self) -> int:
        return self.store.load().limited_grants[0].used

    @property
    def kept(self) -> int:
        return len(self.store.change(lambda tx: tx.counted_uses.all_of(ORIGIN), versioned=False))

    @property
    def outcomes(self) -> list[tuple[str, str]]:
        return [(record["result"], record.get("error", "")) for record in self.records("outcome")]


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    made = Harness(tmp_path)
    yield made
    await made.audit.close()
    made.store.close()


async def answered(caller: Caller, *ids: int) -> list[bytes | HsmdError]:
    await eventually(lambda: all(each in caller.replies for each in ids))
    return [caller.replies[each] for each in ids]


async def test_a_use_is_recorded_counted_and_recorded_before_the_token_is_asked(harness: Harness) -> None:
    harness.cache.gate.clear()
    caller = harness.ask(1)
    (attempt,) = harness.records("attempt")
    await eventually(lambda: harness.cache.batches)
    assert (harness.pool.jobs, harness.records("grant.used"), harness.used) == ([], [], 0)
    written: list[int] = []
    submit = harness.pool.submit

    def watch(jobs: list[Job]) -> None:
        written.append(len(harness.records("grant.used")))
        submit(jobs)

    harness.pool.submit = watch  # type: ignore[method-assign]
    harness.cache.gate.set()
    (job,) = await harness.submitted(1)
    assert (written, harness.used) == ([1], 1)
    (event,) = harness.records("grant.used")
    (grant,) = harness.store.load().limited_grants
    assert event["client"] == "web"
    assert event["fields"] == {
        "attempt": attempt["index"], "grant": grant.id, "key": SITE.digest.hex(), "number": 1,
    }  # fmt: skip
    harness.service.completed([Completion(job, Status.ANSWERED, b"signature")])
    assert caller.replies == {1: b"signature"}


async def test_beyond_the_limit_callers_are_refused_as_without_a_grant(harness: Harness) -> None:
    caller = harness.ask(1, 2, 3, 4, 5)
    refusals = await answered(caller, 4, 5)
    assert [str(each) for each in refusals] == [str(Refused())] * 2
    assert [job.body[3] for job in harness.pool.jobs] == [b"data 1", b"data 2", b"data 3"]
    assert [event["fields"]["number"] for event in harness.records("grant.used")] == [1, 2, 3]
    assert harness.outcomes == [("refused", "grant-exhausted")] * 2
    assert harness.used == 3


async def test_a_client_whose_uses_are_used_up_costs_neither_the_store_nor_the_log_much(
    harness: Harness,
) -> None:
    """Or a grant of one use would allow what no client without a grant can: to fill the disk, and to keep the store busy."""
    await answered(harness.ask(*range(1, 5)), 4)
    batches, attempts = list(harness.cache.batches), len(harness.records("attempt"))
    caller = harness.ask(*range(10, 1_010))
    assert {str(each) for each in caller.replies.values()} == {str(Refused())}
    assert len(caller.replies) == 1_000
    assert (harness.cache.batches, len(harness.records("attempt"))) == (batches, attempts)
    refusals = harness.records("refusal")
    assert len(refusals) == BURST
    assert {record["rule"] for record in refusals} == {"grant-exhausted"}


async def test_a_higher_total_takes_effect_at_once(harness: Harness) -> None:
    await answered(harness.ask(*range(1, 5)), 4)
    harness.limit(Limits(max_uses=4))
    await harness.cache.refresh()
    harness.ask(5)
    await harness.submitted(4)


async def test_a_refusal_that_comes_after_the_total_was_raised_is_not_remembered(harness: Harness) -> None:
    harness.ask(1, 2, 3)
    await harness.submitted(3)
    caller = harness.ask(4)
    count = harness.cache.count_uses

    async def late(
        uses: Sequence[WantedUse], recorded: Collection[UseId], now: datetime
    ) -> list[CountedUse | NotCounted]:
        decided = await count(uses, recorded, now)
        harness.limit(Limits(max_uses=4))
        await harness.cache.refresh()
        return decided

    harness.cache.count_uses = late  # type: ignore[method-assign]
    assert isinstance((await answered(caller, 4))[0], Refused)
    harness.cache.count_uses = count  # type: ignore[method-assign]
    harness.ask(5)
    await harness.submitted(4)


async def test_grants_without_limits_do_not_wait_for_the_store(harness: Harness) -> None:
    harness.cache.gate.clear()
    harness.ask(1)
    harness.ask(2, purpose=TLS12)
    assert [job.body[0] for job in harness.pool.jobs] == [TLS12]
    harness.cache.gate.set()
    await harness.submitted(2)


async def test_what_arrives_while_the_store_counts_shares_the_next_transaction(harness: Harness) -> None:
    harness.limit(Limits(max_uses=100))
    harness.cache.gate.clear()
    harness.ask(1)
    await eventually(lambda: harness.cache.batches)
    for number in range(2, 12):
        harness.ask(number)
    harness.cache.gate.set()
    await harness.submitted(11)
    assert harness.cache.batches == [1, 10]
    assert [event["fields"]["number"] for event in harness.records("grant.used")] == list(range(1, 12))


async def test_uses_of_all_clients_are_not_counted_in_the_threads_of_one(harness: Harness) -> None:
    """Or all would wait until the client whose request came first has its share of the threads again."""
    intake = Intakes(Tariff(share=1.0, burst=1.0), lambda: harness.now).join("web")
    token = paying.set(intake)
    harness.ask(1)
    paying.reset(token)
    await harness.submitted(1)
    assert harness.cache.payers == [None]


async def test_a_grant_that_was_removed_meanwhile_is_not_used(harness: Harness) -> None:
    harness.store.change(lambda tx: tx.grants.remove("web", "site", [TLS13]))
    (error,) = await answered(harness.ask(1), 1)
    assert isinstance(error, Refused)
    assert (harness.outcomes, harness.pool.jobs) == ([("refused", "no-grant")], [])


async def test_a_grant_that_was_shortened_meanwhile_is_not_used(harness: Harness) -> None:
    harness.limit(Limits(not_after=NOON + timedelta(seconds=1)))
    harness.date = NOON + timedelta(seconds=1)
    (error,) = await answered(harness.ask(1), 1)
    assert isinstance(error, Refused)
    assert (harness.outcomes, harness.pool.jobs) == ([("refused", "grant-expired")], [])


async def test_without_the_store_nothing_reaches_the_token(harness: Harness) -> None:
    harness.cache.fault = StoreFailure("the store is away")
    (error,) = await answered(harness.ask(1), 1)
    assert isinstance(error, StoreFailure)
    assert (harness.pool.jobs, harness.records("grant.used")) == ([], [])
    assert harness.outcomes == [
        ("not-performed", "the store failed; the use is counted only if grant.used follows")
    ]
    harness.cache.fault = None
    harness.ask(2)
    await harness.submitted(1)
    assert harness.used == 1


async def test_an_unforeseen_fault_ends_the_request_too(harness: Harness) -> None:
    harness.cache.fault = RuntimeError("a bug")
    (error,) = await answered(harness.ask(1), 1)
    assert isinstance(error, HsmdError)
    assert harness.pool.jobs == []


async def test_a_store_that_hangs_fails_requests_in_time_and_later_ones_at_once(harness: Harness) -> None:
    harness.cache.gate.clear()
    caller = harness.ask(1)
    await eventually(lambda: harness.cache.batches)
    harness.ask(2, caller=caller)
    harness.now += COUNT_TIMEOUT_S + 1
    errors = await answered(caller, 1, 2)
    assert all(isinstance(each, StoreFailure) for each in errors)
    assert isinstance((await answered(harness.ask(3, caller=caller), 3))[0], StoreFailure)
    assert harness.pool.jobs == []
    assert harness.outcomes == [
        ("not-performed", "the store did not answer in time; the use may be counted"),
        ("not-performed", "the store is away; the use is not counted"),
    ]
    assert len(harness.records("attempt")) == 2, "the third was refused before anything was recorded about it"
    harness.cache.gate.set()
    await eventually(lambda: harness.records("grant.used"))
    assert (harness.used, harness.pool.jobs) == (1, []), "it counted after all: recorded, and not performed"
    harness.ask(4)
    await harness.submitted(1)
    assert harness.used == 2


async def test_the_number_of_uses_that_wait_for_the_store_is_limited(harness: Harness) -> None:
    harness.limit(Limits(max_uses=10_000))
    harness.cache.gate.clear()
    caller = harness.ask(0)
    await eventually(lambda: harness.cache.batches)
    harness.ask(*range(1, MAX_WAITING_OF_ONE + 3), caller=caller)
    assert isinstance(caller.replies[MAX_WAITING_OF_ONE + 1], Overloaded)
    assert isinstance(caller.replies[MAX_WAITING_OF_ONE + 2], Overloaded)
    assert len(harness.records("attempt")) == MAX_WAITING_OF_ONE + 1, "nothing is recorded about the others"
    assert harness.limits.of("web", harness.now).open == MAX_WAITING_OF_ONE + 1
    harness.cache.gate.set()
    await harness.submitted(MAX_WAITING_OF_ONE + 1)
    assert harness.used == MAX_WAITING_OF_ONE + 1
    assert max(harness.cache.batches) == MAX_IN_TRANSACTION


async def test_a_client_that_floods_takes_no_other_clients_place(harness: Harness) -> None:
    """Each client in turn gets a place in the transaction, and none can have all that may wait."""
    harness.limit(Limits(max_uses=10_000))
    mail = Caller(harness.add_client("mail"))
    await harness.cache.refresh()
    harness.cache.gate.clear()
    caller = harness.ask(0)
    await eventually(lambda: harness.cache.batches)
    harness.ask(*range(1, MAX_WAITING + 3), caller=caller)
    harness.ask(1, 2, caller=mail)
    harness.cache.gate.set()
    jobs = await harness.submitted(1 + MAX_IN_TRANSACTION)
    assert [job.client for job in jobs[: 1 + MAX_IN_TRANSACTION]].count("mail") == 2


async def test_the_number_of_uses_of_all_clients_that_wait_is_limited(harness: Harness) -> None:
    harness.limit(Limits(max_uses=10_000))
    clients = [harness.add_client(f"web{number}") for number in range(MAX_WAITING // MAX_WAITING_OF_ONE)]
    await harness.cache.refresh()
    harness.cache.gate.clear()
    harness.ask(0)
    await eventually(lambda: harness.cache.batches)
    for identity in clients:
        harness.ask(*range(MAX_WAITING_OF_ONE), caller=Caller(identity))
    assert isinstance(harness.ask(1).replies[1], Overloaded)
    harness.cache.gate.set()
    await harness.submitted(1 + MAX_WAITING)


async def test_no_caller_waits_for_the_store_past_its_deadline(harness: Harness) -> None:
    harness.cache.gate.clear()
    caller = harness.ask(1, ms=1_000)
    await eventually(lambda: harness.cache.batches)
    harness.ask(2, ms=1_000, caller=caller)
    harness.now += 1.5
    errors = await answered(caller, 1, 2)
    assert all(isinstance(each, DeadlineExceeded) for each in errors)
    harness.cache.gate.set()
    await eventually(lambda: harness.records("grant.used"))
    assert (harness.pool.jobs, harness.used) == ([], 1)


async def test_a_caller_that_has_gone_is_not_signed_for(harness: Harness) -> None:
    harness.cache.gate.clear()
    caller = harness.ask(1)
    await eventually(lambda: harness.cache.batches)
    harness.ask(2, caller=caller)
    harness.service.abandon([each for each in caller.open_requests.values() if each is not None])
    harness.cache.gate.set()
    await answered(caller, 1, 2)
    assert (harness.pool.jobs, harness.used) == ([], 1)
    assert harness.outcomes == [
        ("not-performed", "the use of the grant is counted, and not repeated"),
        ("not-performed", "the caller has gone, or its deadline has passed; the use is not counted"),
    ]


async def test_a_use_that_cannot_be_recorded_is_not_performed(harness: Harness) -> None:
    harness.cache.gate.clear()
    caller = harness.ask(1)
    await eventually(lambda: harness.cache.batches)
    away = harness.path.with_suffix(".away")
    harness.path.rename(away)
    harness.now += 1.0
    harness.cache.gate.set()
    (error,) = await answered(caller, 1)
    away.rename(harness.path)
    assert isinstance(error, AuditFailure)
    assert (harness.pool.jobs, harness.used) == ([], 1)
    harness.now += 1.0
    harness.audit.commit()
    assert harness.outcomes == [("not-performed", "the use of the grant is counted, and not repeated")]
    following = asyncio.create_task(harness.service.limited_uses.follow())
    await eventually(lambda: [event["fields"]["number"] for event in harness.records("grant.used")] == [1])
    await eventually(lambda: harness.kept == 0)
    following.cancel()


async def test_a_use_that_was_counted_without_an_answer_is_recorded_before_the_next_one(
    harness: Harness,
) -> None:
    """The store committed, and its answer was lost."""
    harness.cache.fault, harness.cache.counts_first = StoreFailure("the connection was lost"), True
    (error,) = await answered(harness.ask(1), 1)
    assert isinstance(error, StoreFailure)
    assert harness.outcomes == [
        ("not-performed", "the store failed; the use is counted only if grant.used follows")
    ]
    harness.cache.fault = None
    harness.ask(2)
    await harness.submitted(1)
    assert [event["fields"]["number"] for event in harness.records("grant.used")] == [1, 2]


async def test_nothing_is_counted_while_earlier_uses_cannot_be_settled(harness: Harness) -> None:
    harness.cache.settling_fault = StoreFailure("the store is away")
    caller = harness.ask(1, 2)
    errors = await answered(caller, 1, 2)
    assert all(isinstance(each, StoreFailure) for each in errors)
    assert (harness.cache.batches, harness.used, harness.pool.jobs) == ([], 0, [])
    assert (
        harness.outcomes == [("not-performed", "earlier uses are not recorded; this one is not counted")] * 2
    )
    harness.cache.settling_fault = None
    harness.ask(3)
    await harness.submitted(1)
    assert harness.used == 1


async def test_a_daemon_that_is_stopped_leaves_no_uses_in_the_store(harness: Harness) -> None:
    harness.ask(1, 2)
    await harness.submitted(2)
    assert harness.kept == 2
    await harness.audit.commit_durable()
    await harness.service.limited_uses.close()
    assert harness.kept == 0


async def test_a_daemon_whose_store_is_away_stops_all_the_same(harness: Harness) -> None:
    harness.ask(1)
    await harness.submitted(1)
    harness.cache.settling_fault = StoreFailure("the store is away")
    await harness.service.limited_uses.close()
    assert harness.kept == 1


@pytest.mark.parametrize("status", [Status.UNKNOWN, Status.NOT_PERFORMED])
async def test_a_use_whose_worker_was_lost_is_not_repeated(harness: Harness, status: Status) -> None:
    caller = harness.ask(1)
    (job,) = await harness.submitted(1)
    harness.service.completed([Completion(job, status)])
    assert isinstance(caller.replies[1], TokenFailure)
    assert (len(harness.pool.jobs), harness.used) == (1, 1)
    assert harness.outcomes == [(status.value, "the use of the grant is counted, and not repeated")]


async def test_open_uses_count_in_the_allowance_of_the_client(harness: Harness) -> None:
    harness.limits.apply(RateLimit(1_000, 2))
    harness.cache.gate.clear()
    caller = harness.ask(1, 2, 3)
    assert isinstance(caller.replies[3], Overloaded)
    harness.cache.gate.set()
    for job in list(await harness.submitted(2)):
        harness.service.completed([Completion(job, Status.ANSWERED, b"x")])
    harness.ask(4, caller=caller)
    await harness.submitted(3)
    assert harness.limits.of("web", harness.now).open == 1


# --- certificate requests ---


def csr_grant(harness: Harness) -> Grant:
    grant = harness.cache.snapshot.decide_for_request(WEB, "site", CSR, NOON)
    assert isinstance(grant, Grant)
    return grant


async def csr(harness: Harness, data: bytes) -> Caller:
    harness.limit(Limits(max_uses=1, constraints=NAMES), CSR)
    await harness.cache.refresh()
    caller = Caller()
    harness.service.use_for_daemon(caller, csr_grant(harness), CSR, 0x0403, data, harness.now + 60)
    return caller


def request_for(name: str) -> bytes:
    """The bytes that are signed for a certificate request of some P-256 key."""
    spki = ec.generate_private_key(ec.SECP256R1()).public_key()
    encoded = spki.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return certificate_request(encoded, SignatureScheme.ECDSA_SHA256, "", [name]).to_be_signed


async def test_a_certificate_request_is_counted_too(harness: Harness) -> None:
    harness.limit(Limits(max_uses=1, constraints=NAMES), CSR)
    await harness.cache.refresh()
    data = request_for("www.example.com")
    caller, second = Caller(), Caller()
    harness.service.use_for_daemon(caller, csr_grant(harness), CSR, 0x0403, data, harness.now + 60)
    (job,) = await harness.submitted(1)
    harness.service.completed([Completion(job, Status.ANSWERED, b"signature")])
    assert caller.replies == {1: b"signature"}
    harness.service.use_for_daemon(second, csr_grant(harness), CSR, 0x0403, data, harness.now + 60)
    assert isinstance((await answered(second, 1))[0], Refused)
    assert len(harness.pool.jobs) == 1


async def test_the_bytes_of_a_certificate_request_are_checked_before_anything_is_counted(
    harness: Harness,
) -> None:
    with pytest.raises(PurposeMismatch, match=r"evil\.example is not allowed"):
        await csr(harness, request_for("evil.example"))
    await asyncio.sleep(0)
    assert (harness.cache.batches, harness.pool.jobs, harness.path.read_text()) == ([], [], "")


async def test_a_certificate_request_meets_the_limits_of_its_client(harness: Harness) -> None:
    data = request_for("www.example.com")
    harness.pool.full = Unavailable("the token is away")
    with pytest.raises(Unavailable):
        await csr(harness, data)
    assert harness.limits.of("web", harness.now).open == 0
    harness.pool.full = None
    harness.limits.apply(RateLimit(1_000, 0))
    with pytest.raises(Overloaded):
        await csr(harness, data)
    harness.service.drain()
    with pytest.raises(Draining):
        await csr(harness, data)
    assert (harness.cache.batches, harness.pool.jobs) == ([], [])
