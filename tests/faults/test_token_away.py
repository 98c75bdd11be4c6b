"""Tokens that become unavailable, hang or change their PIN, and disks that fail: errors arrive in time, and the daemon recovers
without an operator. `scripts/soak token-faults` runs the long counts and prints the figures."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hsmd.errors import AuditFailure, DeadlineExceeded, TokenFailure, Unavailable
from hsmd.protocol import messages
from tests.support.daemon import MAIL, OPERATOR, WEB, Daemon, running_daemon
from tests.support.daemon_process import alive
from tests.support.evidence import Client, LogRead, compare, figures, make_keys, next_good, quantiles
from tests.support.fault_module.control import CKR, UNLIMITED, Action, FaultModule, Function
from tests.support.fault_module.disk import FailingDisk
from tests.support.load import all_ready
from tests.support.polling import wait_until
from tests.support.tokens import in_token

AWAY = int(os.environ.get("HSMD_TEST_AWAY", "5"))
STALLS = int(os.environ.get("HSMD_TEST_STALLS", "6"))
DISK_FAULTS = int(os.environ.get("HSMD_TEST_DISK_FAULTS", "3"))
BACK_S = float(os.environ.get("HSMD_TEST_BACK_S", "6"))
"""A token is used again within 2 s on an idle machine, which the soak requires; the suite may share its cores with other load."""
TIMEOUT_S = 2.0
GRACE_S = 0.050
SLACK_S = 0.5
pytestmark = pytest.mark.timeout(3_600 if AWAY > 20 else 120)


@pytest.fixture
def open_daemon(tmp_path: Path, fault_module: FaultModule) -> Iterator[Callable[..., Daemon]]:
    with ExitStack() as stack:
        settings = {"before": fault_module.before, "workers": 2}
        yield lambda **options: stack.enter_context(
            running_daemon(tmp_path / "daemon", **settings, **options)
        )


def clients_of(built: Daemon, **options: float) -> list[Client]:
    keys = make_keys(built)
    return [Client(built, name, keys, timeout_s=TIMEOUT_S, **options) for name in (WEB, MAIL)]


async def first_error(clients: list[Client], within_s: float = 10.0) -> None:
    """Wait until a request fails that had not ended before."""
    seen = [len(client.done) for client in clients]
    async with asyncio.timeout(within_s):
        while not any(
            done.error for client, at in zip(clients, seen, strict=True) for done in client.done[at:]
        ):
            await asyncio.sleep(0.005)


def check_outcome(built: Daemon, module: FaultModule, clients: list[Client]) -> None:
    """Check that no request ended after its deadline, no answer is wrong, and the log records every use."""
    built.stop()
    for client in clients:
        assert max(done.ended_s - done.began_s for done in client.done) < TIMEOUT_S + GRACE_S + SLACK_S
        assert not client.wrong()
    print(compare(LogRead(built.audit_path.parent), module, clients))


async def test_a_token_that_returns_is_used_again(
    open_daemon: Callable[..., Daemon], fault_module: FaultModule
) -> None:
    """Without an operator's action."""
    built = open_daemon()
    clients = clients_of(built)
    draw = random.Random(random.getrandbits(31))
    gone, back = [], []
    async with clients[0], clients[1]:
        for number in range(AWAY):
            await next_good(clients)
            gone.append(time.monotonic())
            fault_module.token_away()
            await first_error(clients)
            await asyncio.sleep(draw.random() * (3.0 if number % 5 == 4 else 0.5))
            back.append(time.monotonic())
            fault_module.token_back()
            await next_good(clients)
        async with built.connection(OPERATOR) as operator:
            await all_ready(built, operator)
    check_outcome(built, fault_module, clients)
    errors = {type(each.error) for client in clients for each in client.done if each.error}
    assert errors <= {TokenFailure, Unavailable, DeadlineExceeded}, errors
    recovery = figures(back, clients).to_recovery
    print(
        f"token away: time to error {quantiles(figures(gone, clients).to_error)}; back: {quantiles(recovery)}"
    )
    assert len(recovery) == AWAY
    assert max(recovery) < BACK_S


async def test_a_restarted_token_is_used_again_soon(
    open_daemon: Callable[..., Daemon], fault_module: FaultModule
) -> None:
    """All sessions become invalid, while the token stays available."""
    built = open_daemon()
    clients = clients_of(built)
    restarts = []
    async with clients[0], clients[1]:
        for _ in range(AWAY):
            await next_good(clients)
            restarts.append(time.monotonic())
            fault_module.token_restarts()
            await next_good(clients)
    check_outcome(built, fault_module, clients)
    found = figures(restarts, clients)
    print(f"token restarted: {found}")
    assert max(found.to_recovery) < BACK_S


async def test_calls_that_never_return_are_ended(
    open_daemon: Callable[..., Daemon], fault_module: FaultModule
) -> None:
    """The worker is killed and replaced, each caller gets a result by its deadline, and no process is left over."""
    built = open_daemon(stall_ms=300)
    clients = clients_of(built)
    processes = len(built.pids())
    stalls = []
    async with clients[0], clients[1]:
        for _ in range(STALLS):
            await next_good(clients)
            rule = fault_module.rule(Function.SIGN, Action.HANG, count=1)
            stalls.append(time.monotonic())
            async with asyncio.timeout(20):
                while not rule.hits:
                    await asyncio.sleep(0.005)
            rule.clear()
            await next_good(clients)
        async with built.connection(OPERATOR) as operator:
            await all_ready(built, operator)
    assert len(built.pids()) == processes and all(alive(pid) for pid in built.pids()), "a worker is left over"
    assert len(built.logged("worker.lost")) >= STALLS
    check_outcome(built, fault_module, clients)
    slowest = max(done.ended_s - done.began_s for client in clients for done in client.done)
    print(f"calls stalled: {figures(stalls, clients)}; slowest request {slowest * 1e3:.0f} ms")


async def test_a_pin_changed_under_the_daemon_is_tried_once(
    open_daemon: Callable[..., Daemon], fault_module: FaultModule
) -> None:
    """Logged-in workers continue; after one login with the old PIN there is no other until an operator clears the stop."""
    built = open_daemon()
    fault_module.lock_pin_after(3)
    clients = clients_of(built)
    old = built.pin_file.read_text().strip()
    new = old[::-1] + "7"
    async with clients[0], clients[1]:
        await next_good(clients)
        in_token(
            built.token,
            f"session.close(); s = session.token.open(rw=True, user_pin={old!r}); s.set_pin({old!r}, {new!r})",
        )
        await next_good(clients)
        for pid in built.worker_pids():
            os.kill(pid, signal.SIGKILL)
        await first_error(clients)
        async with asyncio.timeout(20):
            while built.ask(messages.Status()).tokens[0].state != "login-refused":
                await asyncio.sleep(0.05)
        wait_until(lambda: not built.worker_pids(), "all workers have ended", 20)
        assert fault_module.wrong_logins == 1
        built.pin_file.write_text(new + "\n")
        back = time.monotonic()
        built.ask(messages.TokenClear(name="main"))
        await next_good(clients)
    assert fault_module.wrong_logins == 1, "the token saw one wrong PIN in all"
    print(f"PIN written and cleared: back {quantiles(figures([back], clients).to_recovery)}")
    check_outcome(built, fault_module, clients)


@pytest.mark.parametrize(
    "fault",
    [{"write": errno.ENOSPC}, {"write": errno.EIO}, {"sync": errno.EIO}],
    ids=["full", "write-error", "sync-error"],
)
async def test_a_failing_disk_under_the_log_stops_only_uses(
    tmp_path: Path, open_daemon: Callable[..., Daemon], fault_module: FaultModule, fault: dict[str, int]
) -> None:
    """No key is used while it cannot be recorded; operators can still connect; then uses resume without an operator."""
    disk = FailingDisk(tmp_path / "disk")
    built = open_daemon(environment=disk.environment)
    clients = clients_of(built)
    failed, repaired = [], []
    async with clients[0], clients[1], built.connection(OPERATOR) as operator:
        for _ in range(DISK_FAULTS):
            await next_good(clients)
            failed.append(time.monotonic())
            disk.fail(**fault)
            await first_error(clients)
            async with asyncio.timeout(10):
                while (await operator.control(messages.Status(), timeout_s=5)).audit_writable:
                    await asyncio.sleep(0.01)
            used = len(fault_module.uses())
            with pytest.raises(AuditFailure):
                await operator.control(messages.ClientAdd("meanwhile"), timeout_s=5)
            await asyncio.sleep(0.3)
            # Requests whose attempts were recorded before may still be carried out.
            recorded = sum(client.parallel for client in clients)
            assert len(fault_module.uses()) <= used + recorded, (
                "keys are used although nothing can be recorded"
            )
            repaired.append(time.monotonic())
            disk.repair()
            await next_good(clients)
    codes = {type(done.error) for client in clients for done in client.done if done.error}
    assert codes == {AuditFailure}, codes
    wait_until(lambda: built.status().audit_writable)
    check_outcome(built, fault_module, clients)
    print(
        f"disk {fault}: time to error {quantiles(figures(failed, clients).to_error)}; repaired: {quantiles(figures(repaired, clients).to_recovery)}"
    )


@pytest.mark.parametrize(
    "rv",
    [CKR.HOST_MEMORY, CKR.DEVICE_MEMORY, CKR.OPERATION_ACTIVE, CKR.USER_NOT_LOGGED_IN, CKR.DEVICE_ERROR],
    ids=lambda rv: rv.name,
)
async def test_a_session_in_doubt_is_never_used_again(
    open_daemon: Callable[..., Daemon], fault_module: FaultModule, rv: CKR
) -> None:
    """The worker that got the error ends, another one carries out its jobs, and no caller notices."""
    built = open_daemon()
    clients = clients_of(built)
    async with clients[0], clients[1]:
        await next_good(clients)
        # A session that is no longer logged in says so of every key: of one key alone it would be the key's own fault.
        most = UNLIMITED if rv is CKR.USER_NOT_LOGGED_IN else 1
        pid = fault_module.uses()[-1].pid
        rule = fault_module.rule(Function.SIGN_INIT, Action.RETURN, rv, count=most, pid=pid)
        if rv is CKR.USER_NOT_LOGGED_IN:
            fault_module.rule(Function.DECRYPT_INIT, Action.RETURN, rv, pid=pid)
        async with asyncio.timeout(10):
            while not rule.hits:
                await asyncio.sleep(0.005)
        await next_good(clients)
    hit = next(call for call in fault_module.calls(Function.SIGN_INIT) if call.rv == rv)
    later = [call for call in fault_module.uses() if call.pid == hit.pid and call.sequence > hit.sequence]
    # The jobs of its group had begun; no other job had.
    assert len(later) <= 8, "a session in doubt was used again"
    wait_until(lambda: not alive(hit.pid), what="the worker ends")
    assert not [done.error for client in clients for done in client.done if done.error]
    check_outcome(built, fault_module, clients)
