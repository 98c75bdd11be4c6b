"""Workers that die, stop or crash under load: no other request fails, deadlines hold, and jobs declared unbegun never begin.

`Fleet` is a minimal launcher and service around the pool: the launcher kills and replaces workers on request, the service
resubmits jobs that are safe to repeat, by the rules of docs/architecture.md.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmd.daemon.front.tokens.pool import Completion, Job, Status, TokenPool
from hsmd.daemon.ipc.progress import ProgressPage
from hsmd.daemon.ipc.spawn import SpawnedWorker, spawn_worker
from hsmd.daemon.ipc.worker_messages import KeyDescription
from hsmd.pkcs11.softhsm import SoftHsmToken, make_token
from tests.support.tls_bytes import CERTIFICATE_VERIFY
from tests.support.tokens import RawWorker, generate, settings_of

CALLERS = 48
DEADLINE_S = 8.0
SLACK_S = 0.25
"""How late an expiry may be noticed on a busy machine; the pool checks every 10 ms."""


class NullLog:
    """A log that discards every event."""

    def __getattr__(self, level: str) -> Callable[..., None]:
        return lambda event, **fields: None


class Fleet:
    """Pool, launcher and service in one."""

    def __init__(self, token: SoftHsmToken, workers: int, *, stall_s: float, replace: bool = True) -> None:
        self.token = token
        self.replace = replace
        self.spawned: dict[int, SpawnedWorker] = {}
        self.pages: dict[int, ProgressPage] = {}
        self.replaced: list[int] = []
        self.ended: list[SpawnedWorker] = []
        self.statuses: Counter[Status] = Counter()
        self.seen: list[Completion] = []
        self.pool = TokenPool(
            "token",
            window=16,
            max_queue=1000,
            stall_s=stall_s,
            clock=time.monotonic,
            request_replacement=self._replace,
            completed=self._completed,
            log=NullLog(),
        )
        for _ in range(workers):
            self.start()

    def start(self) -> None:
        spawned = spawn_worker(settings_of(self.token), environment=self.token.environment)
        self.spawned[spawned.pid] = spawned
        self.pages[spawned.pid] = ProgressPage(spawned.progress_fd)
        self.pool.attach(spawned.socket, spawned.progress_fd, spawned.pid, False)

    def ready(self) -> list[int]:
        return [worker.pid for worker in self.pool.status().workers if worker.state != "starting"]

    async def until(self, condition: Callable[[], object], timeout_s: float = 15.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.002)

    async def sign(self, key: bytes, in_s: float = DEADLINE_S) -> tuple[Status, bytes]:
        """Handle one request as the service does: repeat it while it has not begun, or once, alone, if its outcome is unknown."""
        deadline = time.monotonic() + in_s
        alone = retried = False
        while True:
            answered: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
            self.pool.submit([Job((1, 0x0403, key, CERTIFICATE_VERIFY), deadline, alone, answered)])
            _, status, answer, _ = await answered
            again = status is Status.NOT_PERFORMED or (status is Status.UNKNOWN and not retried)
            if not again or time.monotonic() >= deadline:
                return status, answer
            retried = retried or status is Status.UNKNOWN
            alone = alone or status is Status.UNKNOWN

    async def close(self) -> None:
        await self.pool.close(0)
        for spawned in [*self.spawned.values(), *self.ended]:
            if spawned.process.poll() is None:
                spawned.process.kill()
            spawned.process.wait(10)
        for page in self.pages.values():
            page.close()

    def _replace(self, pid: int) -> None:
        self.replaced.append(pid)
        spawned = self.spawned.pop(pid)
        self.ended.append(spawned)
        if self.replace:
            spawned.process.kill()
            self.start()

    def _completed(self, completions: list[Completion]) -> None:
        for completion in completions:
            self.statuses[completion.status] += 1
            self.seen.append(completion)
            if not completion.job.context.done():
                completion.job.context.set_result(completion)


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> SoftHsmToken:
    directory: Path = tmp_path_factory.mktemp("faults") / "token"
    return make_token(directory, "faults")


@pytest.fixture(scope="module")
def key(token: SoftHsmToken) -> KeyDescription:
    control = RawWorker(token, {"control": True}).ready()
    made = generate(control, "www", "p-256", ["tls-server"])
    control.close()
    return made


@pytest.fixture
async def fleet(token: SoftHsmToken, key: KeyDescription) -> AsyncIterator[Callable[..., Any]]:
    fleets: list[Fleet] = []

    async def make(workers: int, **changes: Any) -> Fleet:
        fleets.append(Fleet(token, workers, **{"stall_s": 5.0, **changes}))
        await fleets[-1].until(lambda: len(fleets[-1].ready()) == workers)
        return fleets[-1]

    yield make
    for made in fleets:
        await made.close()


def check(key: KeyDescription, answer: bytes) -> None:
    public_key = load_der_public_key(key.public_key)
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    public_key.verify(answer, CERTIFICATE_VERIFY, ec.ECDSA(hashes.SHA256()))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP])
async def test_losing_a_worker_under_load_fails_no_request(
    fleet, key: KeyDescription, number: signal.Signals
) -> None:
    """Two workers, 48 callers; the workers are hit in turn, and every request is answered in time."""
    flock: Fleet = await fleet(2, stall_s=0.25)
    digest = bytes.fromhex(key.key)
    stop = False
    finals: Counter[Status] = Counter()
    longest = 0.0
    samples: list[bytes] = []

    async def caller() -> None:
        nonlocal longest
        while not stop:
            begun = time.monotonic()
            status, answer = await flock.sign(digest)
            longest = max(longest, time.monotonic() - begun)
            finals[status] += 1
            if len(samples) < 200:
                samples.append(answer)

    callers = [asyncio.ensure_future(caller()) for _ in range(CALLERS)]
    for hits in (1, 2):
        await flock.until(lambda hits=hits: finals[Status.ANSWERED] >= 200 * hits)
        victim = next(worker.pid for worker in flock.pool.status().workers if worker.in_flight)
        os.kill(victim, number)
        await flock.until(lambda victim=victim: victim in flock.replaced)
        await flock.until(lambda: len(flock.ready()) == 2)
    stop = True
    await asyncio.gather(*callers)
    assert set(finals) == {Status.ANSWERED}
    assert longest < DEADLINE_S
    # Each loss leaves at most one group of answers, half a window, in doubt.
    assert flock.statuses[Status.UNKNOWN] <= 2 * 8
    for answer in samples:
        check(key, answer)


async def test_a_job_declared_unbegun_never_begins(fleet, key: KeyDescription) -> None:
    """A stopped worker that continues later has received a batch, and must not carry it out."""
    flock: Fleet = await fleet(1, stall_s=0.2, replace=False)
    (victim,) = flock.ready()
    digest = bytes.fromhex(key.key)
    os.kill(victim, signal.SIGSTOP)
    page = flock.pages[victim]
    before = page.started
    jobs = [
        Job((1, 0x0403, digest, CERTIFICATE_VERIFY), time.monotonic() + 5, False, asyncio.Future())
        for _ in range(10)
    ]
    flock.pool.submit(jobs)
    await flock.until(lambda: len(flock.seen) == 10)
    assert {completion.status for completion in flock.seen} == {Status.NOT_PERFORMED}
    os.kill(victim, signal.SIGCONT)
    process = flock.ended[0].process
    await flock.until(lambda: process.poll() is not None)
    assert page.finished == before, "a key was used after the job had been declared unbegun"


async def test_deadlines_hold_while_every_worker_is_stopped(fleet, key: KeyDescription) -> None:
    flock: Fleet = await fleet(2, stall_s=30)
    for pid in flock.ready():
        os.kill(pid, signal.SIGSTOP)
    lateness = []

    async def caller(in_s: float) -> None:
        begun = time.monotonic()
        status, _ = await flock.sign(bytes.fromhex(key.key), in_s)
        lateness.append(time.monotonic() - begun - in_s)
        assert status in (Status.EXPIRED, Status.NOT_PERFORMED)

    await asyncio.gather(*(caller(0.1 + 0.01 * n) for n in range(40)))
    assert len(lateness) == 40
    assert min(lateness) >= 0
    assert max(lateness) < 0.05 + SLACK_S
    for pid in flock.ready():
        os.kill(pid, signal.SIGCONT)
    # Each job that the workers had received is reported once, late or skipped, and then the pool works again.
    await flock.until(lambda: sum(worker.in_flight for worker in flock.pool.status().workers) == 0)
    assert (
        flock.statuses[Status.EXPIRED]
        == flock.statuses[Status.LATE] + flock.statuses[Status.NOT_PERFORMED] - 8
    )
    status, answer = await flock.sign(bytes.fromhex(key.key))
    assert status is Status.ANSWERED
    check(key, answer)


async def test_a_stalled_worker_does_not_hold_up_the_other(fleet, key: KeyDescription) -> None:
    flock: Fleet = await fleet(2, stall_s=1.0)
    victim, other = flock.ready()
    os.kill(victim, signal.SIGSTOP)
    digest = bytes.fromhex(key.key)
    begun = time.monotonic()
    results = await asyncio.gather(*(flock.sign(digest) for _ in range(16)))
    assert {status for status, _ in results} == {Status.ANSWERED}
    assert victim in flock.replaced
    assert other not in flock.replaced
    assert time.monotonic() - begun < 1.0 + 1.0 + SLACK_S
    assert flock.statuses[Status.UNKNOWN] == 0


async def test_the_only_worker_is_replaced(fleet, key: KeyDescription) -> None:
    """Requests wait for the replacement instead of failing."""
    flock: Fleet = await fleet(1)
    os.kill(flock.ready()[0], signal.SIGKILL)
    results = await asyncio.gather(*(flock.sign(bytes.fromhex(key.key)) for _ in range(100)))
    assert {status for status, _ in results} == {Status.ANSWERED}
    assert len(flock.replaced) == 1
