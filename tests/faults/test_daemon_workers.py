"""Workers that die, hang or crash under load: nobody notices, nothing goes unrecorded (issue's "Must show 3")."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from hsmd.errors import DeadlineExceeded
from tests.daemon_house import MAIL, OPERATOR, WEB, house, ssh, tls13, wire
from tests.daemon_load import Load, all_ready

pytestmark = pytest.mark.timeout(120)
ROUNDS = int(os.environ.get("HSMD_TEST_WORKER_FAULTS", "3"))
"""How often each fault happens; the soak raises it."""


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP], ids=lambda fault: fault.name)
async def test_a_lost_worker_costs_nobody_an_answer(tmp_path: Path, fault: signal.Signals) -> None:
    with house(tmp_path / "daemon", workers=2, stall_ms=400) as built:
        keys = {client: built.add_key(f"key-{client}", grant_to=(client,)) for client in (WEB, MAIL)}
        loads = [Load(built, client, key) for client, key in keys.items()]
        async with built.connection(OPERATOR) as operator, loads[0], loads[1]:
            for number in range(ROUNDS):
                await all_ready(built, operator)
                await loads[0].more(50)
                os.kill(built.signing_pids()[number % 2], fault)
                await loads[0].more(100)
            await all_ready(built, operator)
            await loads[1].more(50)
        for load in loads:
            assert not load.failures, load.failures[:3]
            load.check()
        assert len(built.logged("worker.lost")) == ROUNDS


async def test_without_any_worker_callers_hear_so_in_time(tmp_path: Path) -> None:
    """Both workers hang, and nobody comes to replace them: each caller waits until its deadline and no longer."""
    with house(tmp_path / "daemon", workers=2, stall_ms=600_000) as built:
        key = built.add_key("web")
        workers = built.signing_pids()
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        async with Load(built, WEB, key, parallel=20, timeout_s=0.5) as load:
            await load.more(60)
            for pid in workers:
                os.kill(pid, signal.SIGCONT)
            await load.more(200)
        assert all(isinstance(error, DeadlineExceeded) for error in load.failures)
        assert 60 <= len(load.failures) < len(load.done)
        load.check()


async def test_a_poisonous_request_kills_two_workers_and_no_more(tmp_path: Path) -> None:
    """The only request at work when its worker is lost is asked once more, alone; then its caller hears that it is
    unknown, and the others never notice."""
    with house(tmp_path / "daemon", workers=1, stall_ms=600_000) as built:
        key = built.add_key("web")
        async with await ssh(built, WEB) as connection, built.connection(OPERATOR) as operator:
            channel = await wire(connection)
            for _ in range(2):
                await all_ready(built, operator)
                (pid,) = built.signing_pids()
                os.kill(pid, signal.SIGSTOP)
                if not built.audit("attempt"):
                    channel.write(_slow(key))
                async with asyncio.timeout(10):
                    while len(built.audit("attempt")) == len(built.audit("outcome")):
                        await asyncio.sleep(0.005)
                os.kill(pid, signal.SIGKILL)
            await channel.answer(1, within_s=20)
            results = [record["result"] for record in built.audit("outcome")]
            # The worker was stopped before it began: that a job never began does not use up its one repetition.
            assert set(results) <= {"not-performed", "unknown", "performed", "failed"}
            assert (await channel.use(2, key, tls13(2)))[0]
        attempts = {record["index"] for record in built.audit("attempt")}
        assert attempts == {record["attempt"] for record in built.audit("outcome")}


def _slow(key: bytes) -> bytes:
    from tests.daemon_house import operation

    return operation(1, key, tls13(1), deadline_ms=30_000)
