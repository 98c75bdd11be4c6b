"""Job queue and load shedding: clients and keys share a token fairly, no job is lost, and a flood delays only its sender."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hsmd.daemon.front.tokens.job_queue import ACTIVE_S, SHARED_WINDOW, FairQueue, JobQueue
from hsmd.daemon.front.tokens.jobs import LONG_BYTES, Completion, Job, Status, job_cost
from hsmd.daemon.front.tokens.load_shedding import LEAST_SHARE, Load, LoadShedder
from hsmd.errors import Overloaded, Unavailable

CLIENTS, KEYS = ("ann", "bob", "eve"), (b"k1", b"k2", b"k3")


class Channel:
    """What the queue uses of a worker's channel."""

    def __init__(self) -> None:
        self.jobs: dict[int, Job] = {}
        self.alone = False
        self.sent: list[Job] = []

    @property
    def has_alone_job(self) -> bool:
        return any(job.alone for job in self.jobs.values())

    def send_jobs(self, jobs: Any, now: float) -> None:
        for request_id, job in jobs:
            job.queued = False
            self.jobs[request_id] = job
            self.sent.append(job)


def job(client: str = "ann", key: bytes = b"k1", cost: float = 1.0, deadline: float = 1e9) -> Job:
    return Job((1, 0x0403, key, b""), deadline, False, None, client, cost)


def long_job(client: str, size: int = 60_000) -> Job:
    data = bytes(size)
    return Job((4, 0x0403, b"k1", data), 1e9, False, None, client, job_cost(1.0, data))


def served(queue: JobQueue, how_many: int) -> list[Job]:
    channel = Channel()
    queue.hand_out([channel], how_many, 0.0)  # type: ignore[list-item]
    return channel.sent


def test_a_flood_delays_only_its_sender() -> None:
    queue = JobQueue(lambda done: None)
    for _ in range(1_000):
        queue.add(job("eve"))
    served(queue, 10)
    late = job("ann")
    queue.add(late)
    assert late in served(queue, 2)


def test_turns_are_shared_by_cost() -> None:
    """One client with a key that is nine times as slow gets a ninth of the operations, not nine tenths of the token."""
    queue = JobQueue(lambda done: None)
    for _ in range(900):
        queue.add(job("ann", cost=1.0))
        queue.add(job("bob", cost=9.0))
    shares = Counter(each.client for each in served(queue, 500))
    assert 8 <= shares["ann"] / shares["bob"] <= 10


def test_long_data_costs_more_turns() -> None:
    """One client that has 60 kB checked and hashed for each signature gets an eighth of the operations."""
    queue = JobQueue(lambda done: None)
    for _ in range(900):
        queue.add(job("ann"))
        queue.add(long_job("eve"))
    shares = Counter(each.client for each in served(queue, 500))
    assert 7 <= shares["ann"] / shares["eve"] <= 9


def test_the_data_of_a_handshake_costs_nothing_more() -> None:
    assert job_cost(9.0, bytes(4_000)) == 9.0
    assert job_cost(9.0, bytes(10 * LONG_BYTES)) == 19.0


def test_a_worker_that_several_clients_share_holds_little_long_data() -> None:
    """Otherwise a client waits behind all that a worker holds, although its turn comes first."""
    queue = JobQueue(lambda done: None)
    channel = Channel()
    for client in ("eve", "ann"):
        queue.note_active(client, 0.0)
    for _ in range(50):
        queue.add(long_job("eve"))
    queue.hand_out([channel], 64, 0.0)  # type: ignore[list-item]
    held = [each for each in channel.jobs.values() if each.client == "eve"]
    assert sum(1 + len(each.body[3]) // LONG_BYTES for each in held) <= SHARED_WINDOW
    queue.add(job("ann"))
    queue.hand_out([channel], 64, 0.0)  # type: ignore[list-item]
    assert len(channel.jobs) <= 2
    channel.jobs.clear()
    queue.hand_out([channel], 64, 0.0)  # type: ignore[list-item]
    assert "ann" in {each.client for each in channel.sent[-2:]}


def test_the_keys_of_a_client_take_turns() -> None:
    queue = JobQueue(lambda done: None)
    for key in (b"k1", b"k1", b"k1", b"k1", b"k2", b"k2"):
        queue.add(job("ann", key))
    assert [each.body[2] for each in served(queue, 4)] == [b"k1", b"k2", b"k1", b"k2"]


def test_a_client_gets_no_credit_for_its_absence() -> None:
    turns: FairQueue[str] = FairQueue()
    turns.enter("ann")
    for _ in range(100):
        turns.served(1.0, more=True)
    turns.enter("bob")
    order = []
    for _ in range(6):
        order.append(turns.next())
        turns.served(1.0, more=True)
    assert Counter(order) == {"ann": 3, "bob": 3}


def test_abandoned_jobs_use_no_turn() -> None:
    queue = JobQueue(lambda done: None)
    dead = [job("ann") for _ in range(50)]
    for each in dead:
        queue.add(each)
        each.queued = False
    queue.add(job("ann"))
    for _ in range(20):
        queue.add(job("bob"))
    assert Counter(each.client for each in served(queue, 4))["ann"] == 1


class Fairness(RuleBasedStateMachine):
    """The queue compared with a simple model: each job leaves it once, expired, cleared or handed out, in turns."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.done: list[Completion] = []
        self.queue = JobQueue(self.done.extend)
        self.channel = Channel()
        self.inside: dict[int, Job] = {}
        self.handed_out = 0

    @rule(
        client=st.sampled_from(CLIENTS),
        key=st.sampled_from(KEYS),
        cost=st.sampled_from([1.0, 9.0]),
        lives=st.floats(0.1, 5.0),
        alone=st.booleans(),
    )
    def add(self, client: str, key: bytes, cost: float, lives: float, alone: bool) -> None:
        new = job(client, key, cost, self.now + lives)
        new.alone = alone and cost > 1.0
        self.queue.add(new)
        self.inside[id(new)] = new

    @rule(window=st.integers(1, 6))
    def hand_out(self, window: int) -> None:
        before = len(self.channel.sent)
        self.queue.hand_out([self.channel], window, self.now)  # type: ignore[list-item]
        for sent in self.channel.sent[before:]:
            del self.inside[id(sent)]
            assert sent.deadline > self.now

    @rule()
    def answer(self) -> None:
        self.channel.jobs.clear()
        self.channel.alone = False

    @rule(seconds=st.floats(0.0, 2.0))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.queue.sweep(self.now)

    @rule(which=st.integers(0, 50))
    def abandon(self, which: int) -> None:
        queued = [each for each in self.inside.values() if each.queued]
        if queued:
            given_up = queued[which % len(queued)]
            given_up.queued = False
            del self.inside[id(given_up)]

    @rule()
    def clear(self) -> None:
        self.queue.clear(Status.FAILED, Unavailable("away"))

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        for completion in self.done:
            del self.inside[id(completion.job)]
        self.done.clear()
        assert all(each.queued for each in self.inside.values())
        assert len(self.inside) <= self.queue.size

    @invariant()
    def an_empty_model_has_an_empty_queue(self) -> None:
        if not self.inside:
            self.channel.jobs.clear()
            self.channel.alone = False
            before = len(self.channel.sent)
            while self.queue.size:
                self.queue.hand_out([self.channel], 10**6, self.now)  # type: ignore[list-item]
            assert len(self.channel.sent) == before


TestFairness = Fairness.TestCase


@given(
    st.lists(st.tuples(st.sampled_from(CLIENTS), st.sampled_from([1.0, 8.0])), min_size=1, max_size=200),
    st.integers(1, 40),
)
def test_no_client_waits_longer_than_its_turns(asked: list[tuple[str, float]], taken: int) -> None:
    """A client with queued jobs is never behind another client by more than one job's cost of each."""
    queue = JobQueue(lambda done: None)
    for client, cost in asked:
        queue.add(job(client, cost=cost))
    got: Counter[str] = Counter()
    for each in served(queue, taken):
        got[each.client] += int(each.cost)
    for client in {client for client, _ in asked}:
        if queue.waiting(client)[0]:
            assert all(got[other] <= got[client] + 16 for other in CLIENTS)


# --- load shedding ---

LOAD = Load(in_hand=0, capacity=400, workers=1)


def test_one_client_may_fill_the_queue_and_several_share_it() -> None:
    queue, shedder = JobQueue(lambda done: None), LoadShedder()
    jobs = [job("ann") for _ in range(500)]
    refused = shedder.refused(jobs, queue, LOAD, now=0.0)
    assert [each for each, _ in refused] == jobs[400:]
    shedder.refused([job("bob")], queue, LOAD, now=0.1)
    refused = shedder.refused([job("ann") for _ in range(500)], queue, LOAD, now=0.2)
    assert len(refused) == 300
    refused = shedder.refused([job("ann") for _ in range(500)], queue, LOAD, now=0.3 + 2 * ACTIVE_S)
    assert len(refused) == 100, "bob is no longer active"


def test_each_of_many_clients_keeps_a_least_share() -> None:
    queue, shedder = JobQueue(lambda done: None), LoadShedder()
    for number in range(100):
        shedder.refused([job(str(number))], queue, LOAD, now=0.0)
    assert len(shedder.refused([job("ann") for _ in range(100)], queue, LOAD, now=0.0)) == 100 - LEAST_SHARE


def test_a_job_that_would_be_late_is_refused_with_a_retry_time() -> None:
    queue, shedder = JobQueue(lambda done: None), LoadShedder()
    for _ in range(200):
        shedder.served([job()], took_s=0.010)
    jobs = [job(deadline=1.0) for _ in range(200)]
    refused = shedder.refused(jobs, queue, LOAD, now=0.0)
    assert 95 <= len(refused) <= 105
    for _, error in refused:
        assert isinstance(error, Overloaded)
        assert 950 <= error.retry_after_ms <= 1_050
    assert not shedder.refused([job(deadline=0.001)], queue, LOAD, now=0.0), (
        "an idle token serves the shortest deadline"
    )


def test_a_slow_first_use_of_the_token_causes_no_refusals() -> None:
    queue, shedder = JobQueue(lambda done: None), LoadShedder()
    shedder.served([job()], took_s=0.2)
    assert not shedder.refused([job(deadline=0.5) for _ in range(48)], queue, LOAD, now=0.0)
