"""The pool with workers simulated by the test: which worker gets which job when, and how each job ends."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from hsmd.daemon.front.tokens import job_pause, pool
from hsmd.daemon.front.tokens.pool import Completion, Job, Status, TokenPool
from hsmd.daemon.front.tokens.worker_channel import MANY_KEYS
from hsmd.daemon.ipc import worker_messages
from hsmd.daemon.ipc.progress import ProgressPage
from hsmd.daemon.ipc.worker_messages import Forget, LookedUp, LookUp, TokenRequest
from hsmd.errors import (
    BadRequest,
    DeadlineExceeded,
    Draining,
    Overloaded,
    Refused,
    TokenFailure,
    Unavailable,
)
from hsmd.pkcs11 import start_lock
from hsmd.protocol import frames
from hsmd.protocol.channel import FrameDecoder
from hsmd.protocol.frames import Frame, Kind

READY = worker_messages.Ready("label", "serial", "model", ["ECDSA"], 1)
KEY = bytes(range(32))
NEW_KEY = "ab" * 32


class Log:
    """Records the log events."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def __getattr__(self, level: str) -> Callable[..., None]:
        return lambda event, **fields: self.events.append(event)


class FakeWorker:
    """The worker's end of a socket pair, controlled by the test."""

    def __init__(self, pid: int, control: bool = False) -> None:
        self.front, self.socket = socket.socketpair()
        self.socket.setblocking(False)
        self.pid = pid
        self.control = control
        self.progress_fd = ProgressPage.create()
        self.progress = ProgressPage(self.progress_fd)
        self.decoder = FrameDecoder(frames.MAX_REQUEST_LENGTH)
        self.writes = 0
        """How many reads returned data."""

    def send(self, data: bytes) -> None:
        self.socket.setblocking(True)
        self.socket.sendall(data)
        self.socket.setblocking(False)

    def ready(self, keys: int = 1) -> None:
        self.send(frames.encode(Kind.EVENT, 0, worker_messages.encode(replace(READY, keys=keys))))

    def received(self) -> list[Frame]:
        """Frames received so far, without waiting."""
        found: list[Frame] = []
        while True:
            try:
                data = self.socket.recv(1 << 20)
            except BlockingIOError:
                return found
            if not data:
                return found
            self.writes += 1
            found += self.decoder.feed(data)

    def answer(self, *request_ids: int, answer: bytes = b"signature") -> None:
        self.send(b"".join(frames.encode(Kind.RESULT, request_id, answer) for request_id in request_ids))

    def begun(self, started: int, finished: int) -> None:
        self.progress.counters[ProgressPage.STARTED] = started
        self.progress.counters[ProgressPage.FINISHED] = finished

    def close(self) -> None:
        self.socket.close()
        self.progress.close()


class Rig:
    """A pool and its completions, replacement requests and log events."""

    def __init__(self, **changes: Any) -> None:
        self.done: list[Completion] = []
        self.reports = 0
        self.replaced: list[int] = []
        self.log = Log()
        self.workers: list[FakeWorker] = []
        values: dict[str, Any] = {
            "window": 4,
            "max_queue": 8,
            "stall_s": 5.0,
            "clock": time.monotonic,
            **changes,
        }
        self.pool = TokenPool(
            "token",
            request_replacement=self.replaced.append,
            completed=self._completed,
            log=self.log,
            **values,
        )

    def _completed(self, completions: list[Completion]) -> None:
        self.reports += 1
        self.done += completions

    async def worker(self, *, ready: bool = True, control: bool = False, keys: int = 1) -> FakeWorker:
        worker = FakeWorker(1000 + len(self.workers), control)
        self.workers.append(worker)
        self.pool.attach(worker.front, worker.progress_fd, worker.pid, control)
        if ready:
            worker.ready(keys)
            await self.until(lambda: "worker.ready" in self.log.events)
            self.log.events.remove("worker.ready")
        return worker

    async def until(self, condition: Callable[[], object], timeout_s: float = 5.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.001)

    async def sweep(self, now: list[float], seconds: float) -> None:
        """Let this time pass on the clock of the pool, and have it look at its workers."""
        now[0] += seconds
        self.pool._sweep()
        await asyncio.sleep(0)

    async def sent_to(self, worker: FakeWorker, count: int) -> list[Frame]:
        found: list[Frame] = []

        def complete() -> bool:
            found.extend(worker.received())
            return len(found) >= count

        await self.until(complete)
        return found

    def statuses(self) -> list[Status]:
        return [completion.status for completion in self.done]


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make_rig(**changes: Any) -> Rig:
        rigs.append(Rig(**changes))
        return rigs[-1]

    yield make_rig
    for rig in rigs:
        await rig.pool.close(0)
        for worker in rig.workers:
            worker.close()


def job(in_s: float = 10.0, *, alone: bool = False, data: bytes = b"data") -> Job:
    return Job((1, 0x0403, KEY, data), time.monotonic() + in_s, alone)


async def test_a_job_is_sent_and_its_answer_returned(make) -> None:
    rig = make()
    worker = await rig.worker()
    submitted = job()
    rig.pool.submit([submitted])
    ((kind, request_id, body),) = await rig.sent_to(worker, 1)
    assert kind == Kind.KEY_OPERATION
    operation = frames.decode_key_operation(body)
    assert (operation.purpose, operation.scheme, operation.key, operation.data) == (1, 0x0403, KEY, b"data")
    assert 9_000 < operation.deadline_ms <= 10_001
    worker.answer(request_id)
    await rig.until(lambda: rig.done)
    assert rig.done == [Completion(submitted, Status.ANSWERED, b"signature", None)]


async def test_jobs_of_one_loop_turn_are_sent_in_one_write(make) -> None:
    rig = make(window=32)
    worker = await rig.worker()
    rig.pool.submit([job()])
    (first,) = await rig.sent_to(worker, 1)
    worker.writes = 0
    for _ in range(10):
        rig.pool.submit([job()])
    sent = await rig.sent_to(worker, 10)
    assert worker.writes == 1
    rig.reports = 0
    worker.answer(first[1], *(frame[1] for frame in sent))
    await rig.until(lambda: len(rig.done) == 11)
    assert rig.reports == 1


async def test_the_least_busy_worker_gets_the_next_job_within_its_window(make) -> None:
    rig = make(window=3, max_queue=100)
    one, two = await rig.worker(), await rig.worker()
    rig.pool.submit([job() for _ in range(20)])
    first, second = await rig.sent_to(one, 3), await rig.sent_to(two, 3)
    await asyncio.sleep(0.02)
    assert (len(first), len(second), one.received(), two.received()) == (3, 3, [], [])
    assert rig.pool.status().queued == 14
    two.answer(second[0][1], second[1][1])
    assert len(await rig.sent_to(two, 2)) == 2
    assert one.received() == []


async def test_jobs_beyond_the_queue_are_refused_as_overload(make) -> None:
    rig = make(window=2, max_queue=3)
    await rig.worker()
    jobs = [job() for _ in range(9)]
    refused = rig.pool.refused(jobs)
    assert [job for job, _ in refused] == jobs[5:]
    for _, error in refused:
        assert isinstance(error, Overloaded)
        assert error.retry_after_ms > 0


async def test_an_error_fails_only_its_job(make) -> None:
    rig = make()
    worker = await rig.worker()
    rig.pool.submit([job(), job()])
    refused, fine = await rig.sent_to(worker, 2)
    worker.send(frames.encode_error(refused[1], Refused()) + frames.encode(Kind.RESULT, fine[1], b"x"))
    await rig.until(lambda: len(rig.done) == 2)
    assert rig.statuses() == [Status.FAILED, Status.ANSWERED]
    assert isinstance(rig.done[0].error, Refused)


async def test_a_job_the_worker_skipped_was_not_performed(make) -> None:
    rig = make()
    worker = await rig.worker()
    rig.pool.submit([job()])
    ((_, request_id, _),) = await rig.sent_to(worker, 1)
    worker.send(frames.encode_error(request_id, DeadlineExceeded()))
    await rig.until(lambda: rig.done)
    assert rig.statuses() == [Status.NOT_PERFORMED]


# --- deadlines ---


async def test_a_late_answer_is_reported_after_the_expiry(make) -> None:
    rig = make()
    worker = await rig.worker()
    submitted = job(0.05)
    begun = time.monotonic()
    rig.pool.submit([submitted])
    ((_, request_id, _),) = await rig.sent_to(worker, 1)
    await rig.until(lambda: rig.done)
    assert 0.05 <= time.monotonic() - begun < 0.05 + 0.15
    assert rig.statuses() == [Status.EXPIRED]
    worker.answer(request_id)
    await rig.until(lambda: len(rig.done) == 2)
    assert rig.done[1] == Completion(submitted, Status.LATE, b"signature", None)


async def test_a_job_that_expires_in_the_queue_was_not_performed(make) -> None:
    rig = make(window=1)
    worker = await rig.worker()
    rig.pool.submit([job()])
    await rig.sent_to(worker, 1)
    rig.pool.submit([job(0.03)])
    await rig.until(lambda: rig.done)
    assert rig.statuses() == [Status.NOT_PERFORMED]
    assert isinstance(rig.done[0].error, DeadlineExceeded)
    assert worker.received() == []


async def test_an_early_deadline_is_kept_after_a_later_one(make) -> None:
    rig = make(window=8)
    await rig.worker()
    await asyncio.sleep(0.3)
    rig.pool.submit([job(10)])
    begun = time.monotonic()
    rig.pool.submit([job(0.05)])
    await rig.until(lambda: rig.done)
    assert time.monotonic() - begun < 0.05 + 0.15


async def test_a_job_abandoned_in_the_queue_was_not_performed(make) -> None:
    rig = make(window=1)
    worker = await rig.worker()
    held, dropped, kept = job(), job(), job()
    rig.pool.submit([held, dropped, kept])
    ((_, request_id, _),) = await rig.sent_to(worker, 1)
    rig.pool.abandon(dropped)
    rig.pool.abandon(held)
    await rig.until(lambda: rig.done)
    assert rig.done == [Completion(dropped, Status.NOT_PERFORMED, b"", None)]
    worker.answer(request_id)
    ((_, request_id, _),) = await rig.sent_to(worker, 1)
    worker.answer(request_id)
    await rig.until(lambda: len(rig.done) == 3)
    assert [completion.job for completion in rig.done] == [dropped, held, kept]


# --- jobs that run alone ---


async def test_a_job_that_runs_alone_has_its_worker_to_itself(make) -> None:
    rig = make(window=4, max_queue=50)
    worker = await rig.worker()
    rig.pool.submit([job(), job()])
    before = await rig.sent_to(worker, 2)
    rig.pool.submit([job(alone=True, data=b"alone"), job(data=b"behind")])
    worker.answer(before[0][1])
    await rig.until(lambda: len(rig.done) == 1)
    await asyncio.sleep(0.02)
    assert worker.received() == [], "a job was sent while the worker finishes its others"
    worker.answer(before[1][1])
    ((_, request_id, body),) = await rig.sent_to(worker, 1)
    assert frames.decode_key_operation(body).data == b"alone"
    rig.pool.submit([job()])
    await asyncio.sleep(0.02)
    assert worker.received() == [], "a job was sent behind the one that runs alone"
    worker.answer(request_id)
    behind = await rig.sent_to(worker, 2)
    assert frames.decode_key_operation(behind[0][2]).data == b"behind"


async def test_a_job_that_runs_alone_occupies_one_worker_only(make) -> None:
    rig = make(window=4, max_queue=50)
    one, two = await rig.worker(), await rig.worker()
    rig.pool.submit([job() for _ in range(4)])
    await rig.sent_to(one, 2)
    await rig.sent_to(two, 2)
    rig.pool.submit([job(alone=True), *(job() for _ in range(4))])
    await rig.until(lambda: sum(worker.in_flight for worker in rig.pool.status().workers) == 6)
    assert sorted(worker.in_flight for worker in rig.pool.status().workers) == [2, 4]


# --- losing workers ---


async def test_jobs_of_a_lost_worker_end_by_their_progress(make) -> None:
    """Jobs 1 and 2 were begun, 3 and 4 were not; job 1 was answered before the worker was lost."""
    rig = make()
    worker = await rig.worker()
    jobs = [job() for _ in range(4)]
    rig.pool.submit(jobs)
    sent = await rig.sent_to(worker, 4)
    worker.begun(2, 1)
    worker.answer(sent[0][1])
    worker.socket.close()
    await rig.until(lambda: len(rig.done) == 4)
    expected = [Status.ANSWERED, Status.UNKNOWN, Status.NOT_PERFORMED, Status.NOT_PERFORMED]
    assert [(completion.job, completion.status) for completion in rig.done] == list(
        zip(jobs, expected, strict=True)
    )
    assert rig.replaced == [worker.pid]


async def test_a_job_finished_but_not_answered_is_unknown(make) -> None:
    rig = make()
    worker = await rig.worker()
    rig.pool.submit([job()])
    await rig.sent_to(worker, 1)
    worker.begun(1, 1)
    worker.socket.close()
    await rig.until(lambda: rig.done)
    assert rig.statuses() == [Status.UNKNOWN]


async def test_a_worker_without_progress_on_its_jobs_is_replaced(make) -> None:
    rig = make(stall_s=0.15)
    worker = await rig.worker()
    await asyncio.sleep(0.4)
    assert rig.replaced == [], "an idle worker was replaced"
    rig.pool.submit([job(), job()])
    await rig.sent_to(worker, 2)
    for count in range(1, 6):
        worker.begun(count, count)
        await asyncio.sleep(0.08)
    assert rig.replaced == [], "a worker that makes progress was replaced"
    worker.begun(1, 0)
    await rig.until(lambda: len(rig.done) == 2)
    assert rig.replaced == [worker.pid]
    assert rig.statuses() == [Status.UNKNOWN, Status.NOT_PERFORMED]
    assert worker.progress.counters[ProgressPage.FENCE] == 1


async def test_a_worker_that_never_becomes_ready_is_replaced(make) -> None:
    rig = make(start_limit_s=0.1)
    worker, control = await rig.worker(ready=False), await rig.worker(ready=False, control=True)
    await rig.until(lambda: len(rig.replaced) == 2)
    assert set(rig.replaced) == {worker.pid, control.pid}


@pytest.mark.parametrize(
    "message",
    [
        frames.encode(Kind.RESULT, 999, b"x"),
        frames.encode(Kind.KEY_OPERATION, 2, b"x"),
        frames.encode(Kind.EVENT, 0, b"{}"),
        frames.encode(Kind.ERROR, 2, b""),
        b"\xff" * 16,
    ],
)
async def test_a_worker_that_breaks_the_protocol_is_replaced(make, message: bytes) -> None:
    rig = make()
    worker = await rig.worker()
    rig.pool.submit([job()])
    await rig.sent_to(worker, 1)
    worker.send(message)
    await rig.until(lambda: rig.replaced == [worker.pid])
    assert rig.statuses() == [Status.NOT_PERFORMED]


async def test_jobs_wait_for_a_worker_and_fail_if_none_starts(make) -> None:
    rig = make(away_s=0.2)
    rig.pool.submit([job()])
    await asyncio.sleep(0.05)
    assert rig.done == []
    await rig.until(lambda: rig.done)
    assert rig.statuses() == [Status.FAILED]
    assert isinstance(rig.done[0].error, Unavailable)
    begun = time.monotonic()
    rig.pool.submit([job()])
    await rig.until(lambda: len(rig.done) == 2)
    assert time.monotonic() - begun < 0.1
    assert rig.pool.status().state == "away"
    worker = await rig.worker()
    rig.pool.submit([job()])
    assert len(await rig.sent_to(worker, 1)) == 1
    assert rig.pool.status().state == "ready"


async def test_a_slow_worker_receives_all_jobs(make) -> None:
    """More than a socket's buffer in one window: the pool waits for the worker without blocking."""
    rig = make(window=32, max_queue=64)
    worker = await rig.worker()
    rig.pool.submit([job(data=os.urandom(60_000)) for _ in range(32)])
    rig.pool.submit([job()])
    sent = await rig.sent_to(worker, 32)
    worker.answer(*(frame[1] for frame in sent))
    await rig.until(lambda: len(rig.done) == 32)
    assert len(await rig.sent_to(worker, 1)) == 1


async def test_closing_waits_for_a_grace_period_and_then_completes_all_jobs(make) -> None:
    rig = make(window=1)
    worker = await rig.worker()
    begun, queued, late = job(), job(), job()
    rig.pool.submit([begun, queued])
    await rig.sent_to(worker, 1)
    worker.begun(1, 0)
    closing = asyncio.ensure_future(rig.pool.close(0.1))
    await asyncio.sleep(0)
    rig.pool.submit([late])
    await closing
    statuses = {completion.job: completion.status for completion in rig.done}
    assert statuses == {begun: Status.UNKNOWN, queued: Status.NOT_PERFORMED, late: Status.FAILED}
    assert rig.replaced == []
    with pytest.raises(Draining):
        await rig.pool.control(worker_messages.Describe(), 1)


# --- control ---


async def test_control_requests_are_sent_one_at_a_time(make) -> None:
    rig = make()
    control = await rig.worker(control=True)
    asked = [asyncio.ensure_future(rig.pool.control(worker_messages.Describe(), 5)) for _ in range(2)]
    ((kind, request_id, body),) = await rig.sent_to(control, 1)
    assert kind == Kind.CONTROL_REQUEST
    assert (
        worker_messages.decode_request(frames.decode_control_request(body)[1]) == worker_messages.Describe()
    )
    await asyncio.sleep(0.02)
    assert control.received() == []
    control.send(
        frames.encode(
            Kind.CONTROL_RESULT, request_id, worker_messages.encode(worker_messages.KeyDescriptions([]))
        )
    )
    assert await asked[0] == worker_messages.KeyDescriptions([])
    ((_, request_id, _),) = await rig.sent_to(control, 1)
    control.send(frames.encode_error(request_id, BadRequest("key_type: choose another")))
    with pytest.raises(BadRequest, match="choose another"):
        await asked[1]


async def changing(rig: Rig, control: FakeWorker, request: TokenRequest, result: bytes) -> asyncio.Task[Any]:
    """A control request that the control worker has answered."""
    asked = asyncio.ensure_future(rig.pool.control(request, 5))
    ((_, request_id, _),) = await rig.sent_to(control, 1)
    control.send(frames.encode(Kind.CONTROL_RESULT, request_id, result))
    return asked


async def generating(rig: Rig, control: FakeWorker) -> asyncio.Task[Any]:
    """`generate`, which has made NEW_KEY."""
    made = worker_messages.KeyDescription(NEW_KEY, "p-256", b"", [], "", "")
    request = worker_messages.Generate("name", "p-256", [])
    return await changing(rig, control, request, worker_messages.encode(made))


async def look_up(rig: Rig, worker: FakeWorker) -> None:
    """The worker is asked for NEW_KEY, and nothing else."""
    ((kind, _, body),) = await rig.sent_to(worker, 1)
    assert (kind, worker_messages.decode_notice(body)) == (Kind.EVENT, LookUp([NEW_KEY]))


def looked_up(worker: FakeWorker) -> None:
    worker.send(frames.encode(Kind.EVENT, 0, worker_messages.encode(LookedUp([]))))


async def test_workers_look_for_a_new_key_one_at_a_time_and_without_jobs(make) -> None:
    rig = make(workers=2, spare=True)
    first, second, spare = [await rig.worker() for _ in range(3)]
    control = await rig.worker(control=True)
    rig.pool.submit([job()])
    busy, idle = first, second
    await rig.sent_to(busy, 1)
    busy.begun(1, 0)
    asked = await generating(rig, control)
    await asyncio.sleep(0.03)
    assert spare.received() == [], (
        "the busy one has the processor to itself until it has used the changed token"
    )
    busy.begun(1, 1)
    await look_up(rig, spare)
    await asyncio.sleep(0.02)
    assert idle.received() == busy.received() == [], "the spare looks first, and alone"
    looked_up(spare)
    await look_up(rig, idle)
    rig.pool.submit([job() for _ in range(6)])
    assert len(await rig.sent_to(spare, 1)) >= 1, "the spare is given its jobs"
    assert idle.received() == []
    assert not asked.done()
    looked_up(idle)
    await is_asked(rig, busy)
    looked_up(busy)
    assert (await asked).key == NEW_KEY


async def making_a_key(rig: Rig, key_type: str, keys: int) -> tuple[FakeWorker, Callable[[], None]]:
    """A worker of a token with so many keys, while the control worker makes another, and a function that ends this."""
    worker, control = await rig.worker(keys=keys), await rig.worker(control=True)
    asked = asyncio.ensure_future(rig.pool.control(worker_messages.Generate("name", key_type, []), 60))
    ((_, request_id, _),) = await rig.sent_to(control, 1)

    def answer() -> None:
        made = worker_messages.KeyDescription(NEW_KEY, key_type, b"", [], "", "")
        control.send(frames.encode(Kind.CONTROL_RESULT, request_id, worker_messages.encode(made)))
        assert not asked.done()

    return worker, answer


async def test_jobs_wait_while_a_key_is_made_in_a_token_with_many(make, monkeypatch) -> None:
    monkeypatch.setattr(job_pause, "PAUSE_S", 60.0)
    rig = make()
    worker, answer = await making_a_key(rig, "p-256", MANY_KEYS)
    rig.pool.submit([job()])
    await asyncio.sleep(0.02)
    assert worker.received() == []
    answer()
    ((kind, _, _),) = await rig.sent_to(worker, 1)
    assert kind == Kind.KEY_OPERATION, "before it looks for the new key"


async def test_a_key_is_made_when_jobs_that_workers_have_are_done(make, monkeypatch) -> None:
    """A worker that uses a key meanwhile reads the token twice, and its jobs miss their deadline."""
    monkeypatch.setattr(job_pause, "PAUSE_S", 60.0)
    monkeypatch.setattr(job_pause, "IDLE_S", 60.0)
    rig = make()
    workers = [await rig.worker(keys=MANY_KEYS) for _ in range(2)]
    control = await rig.worker(control=True)
    rig.pool.submit([job(), job()])
    open_jobs = [(await rig.sent_to(worker, 1))[0][1] for worker in workers]
    asked = asyncio.ensure_future(rig.pool.control(worker_messages.Generate("name", "p-256", []), 60))
    workers[0].answer(open_jobs[0])
    await rig.until(rig.statuses)
    assert control.received() == []
    workers[1].close()
    await rig.sent_to(control, 1)
    asked.cancel()


async def test_a_key_is_made_soon_although_workers_have_jobs(make, monkeypatch) -> None:
    monkeypatch.setattr(job_pause, "IDLE_S", 0.02)
    rig = make()
    worker, control = await rig.worker(keys=MANY_KEYS), await rig.worker(control=True)
    rig.pool.submit([job()])
    await rig.sent_to(worker, 1)
    asked = asyncio.ensure_future(rig.pool.control(worker_messages.Generate("name", "p-256", []), 60))
    await rig.sent_to(control, 1)
    asked.cancel()


async def test_jobs_do_not_wait_long_while_a_key_is_made(make, monkeypatch) -> None:
    monkeypatch.setattr(job_pause, "PAUSE_S", 0.02)
    rig = make()
    worker, _ = await making_a_key(rig, "p-256", MANY_KEYS)
    rig.pool.submit([job()])
    await rig.sent_to(worker, 1)


@pytest.mark.parametrize(("key_type", "keys"), [("rsa-4096", MANY_KEYS), ("p-256", MANY_KEYS - 1)])
async def test_jobs_do_not_wait_for_what_takes_long_or_spares_nothing(
    make, monkeypatch, key_type, keys
) -> None:
    monkeypatch.setattr(job_pause, "PAUSE_S", 60.0)
    rig = make()
    worker, _ = await making_a_key(rig, key_type, keys)
    rig.pool.submit([job()])
    await rig.sent_to(worker, 1)


async def is_asked(rig: Rig, worker: FakeWorker) -> None:
    """The worker is asked for NEW_KEY, among other things."""
    found: list[Frame] = []

    def asked() -> bool:
        found.extend(worker.received())
        asked = worker_messages.encode(LookUp([NEW_KEY]))
        return any(body == asked for _, _, body in found)

    await rig.until(asked)


async def test_the_only_worker_goes_on_while_it_looks_for_a_key(make) -> None:
    rig = make()
    worker, control = await rig.worker(), await rig.worker(control=True)
    asked = await generating(rig, control)
    await look_up(rig, worker)
    rig.pool.submit([job()])
    assert len(await rig.sent_to(worker, 1)) == 1
    looked_up(worker)
    await asked


async def test_a_worker_that_was_starting_looks_for_keys_that_it_may_have_missed(make) -> None:
    rig = make()
    early = await rig.worker(ready=False)
    control = await rig.worker(control=True)
    assert (await (await generating(rig, control))).key == NEW_KEY
    late = await rig.worker()
    early.ready()
    await look_up(rig, early)
    looked_up(early)
    await asyncio.sleep(0.02)
    assert late.received() == [], "it began to search after the key was made"


async def test_workers_look_for_a_key_that_another_daemon_has_made(make) -> None:
    rig = make()
    worker, control = await rig.worker(), await rig.worker(control=True)
    rig.pool.note_new_key(NEW_KEY)
    await look_up(rig, worker)
    looked_up(worker)
    asked = await generating(rig, control)
    await look_up(rig, worker)
    looked_up(worker)
    await asked
    rig.pool.note_new_key(NEW_KEY)
    await asyncio.sleep(0.02)
    assert worker.received() == [], "what was made here is known"


async def test_a_worker_that_is_lost_while_it_looks_holds_up_nothing(make) -> None:
    rig = make()
    first, second = await rig.worker(), await rig.worker()
    control = await rig.worker(control=True)
    asked = await generating(rig, control)
    await look_up(rig, first)
    first.socket.close()
    await is_asked(rig, second)
    looked_up(second)
    await asked


async def test_workers_are_told_of_destroyed_keys(make) -> None:
    rig = make()
    worker, control = await rig.worker(), await rig.worker(control=True)
    await (await changing(rig, control, worker_messages.Destroy(key=NEW_KEY), b'{"changed":true}'))
    ((kind, _, body),) = await rig.sent_to(worker, 1)
    assert (kind, worker_messages.decode_notice(body)) == (Kind.EVENT, Forget([NEW_KEY]))


async def test_a_search_may_take_longer_than_a_signature(make) -> None:
    now = [100.0]
    rig = make(stall_s=2.0, clock=lambda: now[0])
    worker = await rig.worker()
    rig.pool.submit([job(1e9)])
    await rig.sent_to(worker, 1)
    with worker.progress.slice_of_search():
        await rig.sweep(now, 1.0)
        await rig.sweep(now, 10.0)
        assert rig.replaced == []
        await rig.sweep(now, 15.0)
        assert rig.replaced == [worker.pid]


async def with_a_job(rig: Rig, keys: int = MANY_KEYS) -> FakeWorker:
    """A worker with so many keys that has begun a job."""
    worker = await rig.worker(keys=keys)
    rig.pool.submit([job(1e9)])
    await rig.sent_to(worker, 1)
    worker.begun(1, 0)
    return worker


async def end_job(rig: Rig, now: list[float], worker: FakeWorker) -> None:
    """It ends its job and begins another one."""
    worker.begun(2, 1)
    await rig.sweep(now, 0.1)


async def test_a_worker_may_be_slow_while_the_token_is_changed(make) -> None:
    now = [100.0]
    rig = make(stall_s=2.0, clock=lambda: now[0])
    worker, control = await with_a_job(rig), await rig.worker(control=True)
    asked = asyncio.ensure_future(rig.pool.control(worker_messages.Destroy(key=NEW_KEY), 5))
    await rig.sent_to(control, 1)
    await end_job(rig, now, worker)
    await rig.sweep(now, 10.0)
    assert rig.replaced == [], "the change is under way"
    await rig.sweep(now, 10.0)
    assert rig.replaced == [worker.pid]
    asked.cancel()


async def test_the_first_use_of_a_token_after_a_change_may_be_slow(make) -> None:
    now = [100.0]
    rig = make(stall_s=2.0, clock=lambda: now[0])
    worker, control = await rig.worker(keys=MANY_KEYS), await rig.worker(control=True)
    await (await changing(rig, control, worker_messages.Destroy(key=NEW_KEY), b'{"changed":true}'))
    await rig.sent_to(worker, 1)
    await rig.sweep(now, 600.0)
    rig.pool.submit([job(1e9)])
    await rig.sent_to(worker, 1)
    worker.begun(1, 0)
    await rig.sweep(now, 0.1)
    await rig.sweep(now, 10.0)
    assert rig.replaced == [], "it has not used the token since"
    await end_job(rig, now, worker)
    await rig.sweep(now, 2.0)
    assert rig.replaced == [worker.pid], "it has used the token once"


async def test_a_worker_that_hangs_without_a_change_is_replaced_soon(make) -> None:
    now = [100.0]
    rig = make(stall_s=2.0, clock=lambda: now[0])
    worker, control = await with_a_job(rig), await rig.worker(control=True)
    asked = asyncio.ensure_future(rig.pool.control(worker_messages.Describe(), 5))
    await rig.sent_to(control, 1)
    await rig.sweep(now, 0.1)
    await rig.sweep(now, 2.0)
    assert rig.replaced == [worker.pid], "a list of keys changes nothing"
    asked.cancel()


async def test_a_worker_with_few_keys_has_no_reason_to_be_slow_after_a_change(make) -> None:
    now = [100.0]
    rig = make(stall_s=2.0, clock=lambda: now[0])
    worker = await with_a_job(rig, MANY_KEYS - 1)
    rig.pool.note_change()
    await rig.sweep(now, 0.1)
    await rig.sweep(now, 2.0)
    assert rig.replaced == [worker.pid]


async def test_a_key_that_another_daemon_has_made_or_removed_may_slow_workers_down(make) -> None:
    now = [100.0]
    rig = make(stall_s=2.0, clock=lambda: now[0])
    worker = await with_a_job(rig)
    for change in (lambda: rig.pool.note_new_key(NEW_KEY), rig.pool.note_change):
        await end_job(rig, now, worker)
        change()
        await rig.sweep(now, 10.0)
        assert rig.replaced == []
        worker.begun(2, 2)
        await rig.sweep(now, 10.0)


async def test_workers_read_a_changed_token_with_many_keys_one_at_a_time(make) -> None:
    """Each takes a processor for 0.2 s then, and so the jobs of two would wait for both."""
    now = [100.0]
    rig = make(window=8, clock=lambda: now[0])
    first, second = await rig.worker(keys=MANY_KEYS), await rig.worker(keys=MANY_KEYS)
    rig.pool.note_change()
    rig.pool.submit([job(1e9) for _ in range(4)])
    sent = await rig.sent_to(first, 4)
    assert second.received() == []
    now[0] += 0.2
    first.begun(1, 1)
    first.answer(sent[0][1])
    await rig.until(lambda: rig.done)
    rig.pool.submit([job(1e9) for _ in range(4)])
    await rig.sent_to(second, 3)


async def test_no_worker_looks_for_a_key_before_all_that_get_jobs_have_read_the_token(make) -> None:
    now = [100.0]
    rig = make(window=8, clock=lambda: now[0])
    first, second = await rig.worker(keys=MANY_KEYS), await rig.worker(keys=MANY_KEYS)
    rig.pool.submit([job(1e9)])
    sent = await rig.sent_to(first, 1)
    rig.pool.note_new_key(NEW_KEY)
    now[0] += 0.2
    first.begun(1, 1)
    first.answer(sent[0][1])
    await rig.until(lambda: rig.done)
    rig.pool.submit([job(1e9)])
    await rig.sent_to(first, 1)
    await rig.sweep(now, 0.1)
    assert second.received() == [], "it will be given jobs soon, and then has to read the token as well"
    await rig.sweep(now, 1.0)
    ((kind, _, _),) = await rig.sent_to(second, 1)
    assert kind == Kind.EVENT


async def test_a_worker_that_hangs_in_a_changed_token_keeps_jobs_from_others_for_a_moment_only(make) -> None:
    now = [100.0]
    rig = make(window=4, clock=lambda: now[0])
    first, second = await rig.worker(keys=MANY_KEYS), await rig.worker(keys=MANY_KEYS)
    rig.pool.note_change()
    rig.pool.submit([job(1e9) for _ in range(6)])
    await rig.sent_to(first, 4)
    await rig.sweep(now, 0.5)
    assert second.received() == []
    await rig.sweep(now, 0.5)
    await rig.sent_to(second, 2)


async def test_workers_that_are_slow_after_a_change_are_replaced_one_at_a_time(make) -> None:
    now = [100.0]
    rig = make(stall_s=2.0, clock=lambda: now[0])
    first, second = await rig.worker(keys=MANY_KEYS), await rig.worker(keys=MANY_KEYS)
    rig.pool.submit([job(1e9), job(1e9)])
    for worker in (first, second):
        await rig.sent_to(worker, 1)
        worker.begun(1, 0)
    rig.pool.note_change()
    await rig.sweep(now, 0.1)
    await rig.sweep(now, 20.0)
    assert rig.replaced == [first.pid]
    await rig.sweep(now, 10.0)
    assert rig.replaced == [first.pid]
    await rig.sweep(now, 10.0)
    assert rig.replaced == [first.pid, second.pid]


async def test_a_worker_that_starts_slowly_is_replaced_only_when_it_stops(make) -> None:
    now = [100.0]
    rig = make(clock=lambda: now[0])
    worker = await rig.worker(ready=False)
    for _ in range(20):
        with worker.progress.slice_of_search():
            pass
        await rig.sweep(now, 15.0)
    assert rig.replaced == []
    await rig.sweep(now, 15.0)
    await rig.sweep(now, 15.0)
    assert rig.replaced == [worker.pid]


async def test_a_control_worker_that_hangs_is_replaced(make) -> None:
    rig = make()
    control = await rig.worker(control=True)
    with pytest.raises(DeadlineExceeded):
        await rig.pool.control(worker_messages.Describe(), 0.05)
    assert rig.replaced == [control.pid]
    with pytest.raises(DeadlineExceeded):
        await rig.pool.control(worker_messages.Describe(), 0.05)
    assert rig.replaced == [control.pid], "no worker is replaced for a request that waited for one"
    fresh = await rig.worker(control=True)
    asked = asyncio.ensure_future(rig.pool.control(worker_messages.Describe(), 5))
    ((_, request_id, _),) = await rig.sent_to(fresh, 1)
    fresh.send(frames.encode(Kind.CONTROL_RESULT, request_id, b'{"keys":[]}'))
    assert await asked == worker_messages.KeyDescriptions([])


async def test_a_control_worker_is_not_replaced_for_time_that_others_took(make) -> None:
    rig = make()
    control = await rig.worker(control=True)
    first = asyncio.ensure_future(rig.pool.control(worker_messages.Describe(), 30))
    ((_, request_id, _),) = await rig.sent_to(control, 1)
    second = asyncio.ensure_future(rig.pool.control(worker_messages.Describe(), 1))
    await asyncio.sleep(0.6)  # more than half of its time
    control.send(frames.encode(Kind.CONTROL_RESULT, request_id, b'{"keys":[]}'))
    assert await first == worker_messages.KeyDescriptions([])
    with pytest.raises(DeadlineExceeded):
        await second
    assert rig.replaced == []


async def test_a_list_of_keys_is_taken_page_by_page(make) -> None:
    rig = make()
    control = await rig.worker(control=True)

    async def listed() -> list[list[Any]]:
        return [keys async for keys in rig.pool.pages(worker_messages.Describe(brief=True), 5)]

    asked = asyncio.ensure_future(listed())
    for cursor, next_cursor in (("", "second"), ("second", "")):
        ((_, request_id, body),) = await rig.sent_to(control, 1)
        request = worker_messages.decode_request(frames.decode_control_request(body)[1])
        assert request == worker_messages.Describe(brief=True, cursor=cursor)
        answer = worker_messages.KeyDescriptions([], next_cursor)
        control.send(frames.encode(Kind.CONTROL_RESULT, request_id, worker_messages.encode(answer)))
    assert await asked == [[], []]


async def test_a_lost_control_worker_fails_its_request(make) -> None:
    rig = make()
    control = await rig.worker(control=True)
    asked = asyncio.ensure_future(rig.pool.control(worker_messages.Describe(), 5))
    await rig.sent_to(control, 1)
    control.socket.close()
    with pytest.raises(TokenFailure, match="lost"):
        await asked
    assert rig.replaced == [control.pid]


async def test_a_cancelled_request_does_not_affect_the_next_one(make) -> None:
    rig = make()
    control = await rig.worker(control=True)
    first = asyncio.ensure_future(rig.pool.control(worker_messages.Describe(), 5))
    ((_, first_id, _),) = await rig.sent_to(control, 1)
    first.cancel()
    await asyncio.wait([first])
    second = asyncio.ensure_future(rig.pool.control(worker_messages.Describe(), 5))
    ((_, second_id, _),) = await rig.sent_to(control, 1)
    control.send(frames.encode(Kind.CONTROL_RESULT, first_id, b'{"keys":[{"bad":1}]}'))
    control.send(frames.encode(Kind.CONTROL_RESULT, second_id, b'{"keys":[]}'))
    assert await second == worker_messages.KeyDescriptions([])
    assert rig.replaced == []


async def test_a_refused_login_is_shown_in_the_state(make) -> None:
    rig = make()
    worker = await rig.worker(ready=False)
    assert rig.pool.status().state == "starting"
    worker.send(
        frames.encode(
            Kind.EVENT, 0, worker_messages.encode(worker_messages.Failed("wrong PIN", login_refused=True))
        )
    )
    worker.socket.close()
    await rig.until(lambda: rig.replaced)
    assert rig.pool.status().state == "login-refused"


# --- the health of the token ---


async def test_jobs_fail_at_once_while_the_breaker_is_open(make) -> None:
    rig = make(away_s=1000.0)
    worker = await rig.worker(ready=False)
    rig.pool.submit([job()])
    worker.send(frames.encode(Kind.EVENT, 0, worker_messages.encode(worker_messages.Failed("NoSuchToken"))))
    await rig.until(lambda: rig.pool.status().breaker == "open")
    await rig.until(lambda: rig.done)
    assert isinstance(rig.done[0].error, Unavailable)
    assert rig.done[0].error.retry_after_ms > 0
    assert rig.pool.status().reason == "NoSuchToken"
    await rig.worker(ready=False)
    assert rig.pool.status().breaker == "probing"
    await rig.worker()
    assert (rig.pool.status().breaker, rig.pool.status().state) == ("closed", "ready")


async def test_starts_that_fail_for_one_reason_are_logged_once_at_first(make) -> None:
    """A worker is started every second while the token cannot be used."""
    now = [0.0]
    rig = make(clock=lambda: now[0])
    for number in range(20):
        worker = await rig.worker(ready=False)
        text = "the token is not there" if number else "the module does not exist"
        worker.send(frames.encode(Kind.EVENT, 0, worker_messages.encode(worker_messages.Failed(text))))
        worker.socket.close()
        await rig.until(lambda number=number: len(rig.replaced) > number)
    assert rig.log.events.count("worker.failed") == 2
    assert "worker.lost" not in rig.log.events


async def test_a_lost_worker_makes_the_others_probe_the_token(make) -> None:
    rig = make()
    first, second = await rig.worker(), await rig.worker()
    first.socket.close()
    await rig.until(lambda: rig.replaced)
    asked: list[Frame] = []
    await rig.until(lambda: asked.extend(second.received()) or asked)
    assert asked[0][2] == worker_messages.PROBE
    second.send(frames.encode(Kind.EVENT, 0, worker_messages.encode(worker_messages.Probed("DeviceRemoved"))))
    await rig.until(lambda: rig.pool.status().breaker == "open")
    assert rig.pool.status().state == "away"


@pytest.mark.parametrize("code", ["token", "unknown"])
async def test_requests_of_a_caller_never_open_the_breaker(make, code: str) -> None:
    """After errors of jobs and lost workers the token is probed, and only the probe counts."""
    rig = make()
    for number in range(10):
        worker = await rig.worker()
        rig.pool.submit([job()])
        ((_, request_id, _),) = await rig.sent_to(worker, 1)
        if code == "token":
            worker.send(frames.encode_error(request_id, TokenFailure()))
        worker.begun(1, 0)
        worker.socket.close()
        await rig.until(lambda number=number: len(rig.replaced) == number + 1)
        assert rig.pool.status().breaker == "closed"


async def test_a_faulty_signature_is_logged(make) -> None:
    rig = make()
    worker = await rig.worker()
    worker.send(
        frames.encode(
            Kind.EVENT, 0, worker_messages.encode(worker_messages.Faulty("ab" * 32, "does not verify"))
        )
    )
    await rig.until(lambda: "token.faulty_signature" in rig.log.events)


def test_time_limits_are_in_order() -> None:
    """Sweeps are much shorter than stalls, and a worker that hangs with the start lock is replaced before others give up."""
    assert pool.SWEEP_S <= 0.02
    assert pool.START_LIMIT_S < start_lock.LOCK_WAIT_S
    assert time.get_clock_info("monotonic").monotonic
