"""Workers that die, hang or crash under load: no client notices, and every attempt is recorded."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from hsmd.errors import DeadlineExceeded
from hsmd.protocol.frames import Kind
from tests.support.daemon import MAIL, OPERATOR, WEB, running_daemon
from tests.support.load import Load, all_ready
from tests.support.ssh_peer import operation, ssh, wire
from tests.support.tls_bytes import tls13

pytestmark = pytest.mark.timeout(120)
ROUNDS = int(os.environ.get("HSMD_TEST_WORKER_FAULTS", "3"))
"""How often each fault is injected; the soak raises it."""


@pytest.mark.parametrize(
    "fault", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP], ids=lambda fault: fault.name
)
async def test_a_lost_worker_costs_no_client_an_answer(tmp_path: Path, fault: signal.Signals) -> None:
    with running_daemon(tmp_path / "daemon", workers=2, stall_ms=400) as built:
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


async def test_without_workers_callers_get_an_error_at_their_deadline(tmp_path: Path) -> None:
    """Both workers hang and are not replaced: each caller gets an error at its deadline."""
    with running_daemon(tmp_path / "daemon", workers=2, stall_ms=600_000) as built:
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


async def test_only_the_request_in_progress_is_in_doubt(tmp_path: Path) -> None:
    """A worker is killed during long operations: the outcome of one job is unknown, the queued ones did not begin, and every
    caller still gets an answer."""
    with running_daemon(tmp_path / "daemon", workers=1) as built:
        key = built.add_key("slow", "rsa-4096")
        async with await ssh(built, WEB) as connection, built.connection(OPERATOR) as operator:
            channel = await wire(connection)
            first = 1
            for _ in range(10):
                await all_ready(built, operator)
                (pid,) = built.signing_pids()
                last = first + 20
                channel.write(b"".join(_rsa(number, key) for number in range(first, last)))
                await channel.answer(first)
                os.kill(pid, signal.SIGKILL)
                for number in range(first, last):
                    assert (await channel.answer(number))[0] == Kind.RESULT
                first = last
                results = Counter(record["result"] for record in built.audit("outcome"))
                if results["unknown"]:
                    break
        assert results["unknown"] == 1
        assert results["not-performed"] > 5
        assert results["performed"] == first - 1
        attempts = Counter(record["asked"] for record in built.audit("attempt"))
        assert len(attempts) == first - 1
        assert {record["index"] for record in built.audit("attempt")} == {
            record["attempt"] for record in built.audit("outcome")
        }


def _rsa(number: int, key: bytes) -> bytes:
    return operation(number, key, tls13(number), scheme=0x0804, deadline_ms=20_000)
