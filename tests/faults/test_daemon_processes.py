"""Failures of front, launcher and token: the daemon recovers without an operator, or ends completely."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hsmd.errors import AuditFailure, ErrorCode
from hsmd.protocol import messages
from hsmd.protocol.frames import Kind
from tests.support.audit_logs import end_of_chain
from tests.support.daemon import OPERATOR, WEB, Daemon, running_daemon
from tests.support.daemon_process import alive
from tests.support.fault_module.control import CKR, Action, FaultModule, Function
from tests.support.load import Load, all_ready
from tests.support.polling import eventually, wait_until
from tests.support.ssh_peer import operation, ssh, wire
from tests.support.tls_bytes import tls13

pytestmark = pytest.mark.timeout(120)
FRONT_ROUNDS = int(os.environ.get("HSMD_TEST_FRONT_KILLS", "2"))
BACK_S = float(os.environ.get("HSMD_TEST_BACK_S", "6"))
"""A front restarts within 2 s on an idle machine, which the soak requires; the suite may share its two cores with other load."""


@pytest.fixture
def open_daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(running_daemon(tmp_path / "daemon", **options))


def verified(built: Daemon) -> int:
    """Check that the log is one unbroken chain; return its length."""
    return end_of_chain(built.audit_path.read_bytes().splitlines()).size


async def test_a_killed_front_restarts_and_its_open_attempts_are_closed(
    open_daemon: Callable[..., Daemon],
) -> None:
    built = open_daemon(workers=2, addresses=[f"127.0.0.1:{_free_port()}"])
    key = built.add_key("web")
    for _ in range(FRONT_ROUNDS):
        async with Load(built, WEB, key, parallel=16) as load:
            await load.more(100)
            stopped = built.signing_pids()
            for pid in stopped:  # so that attempts are open when the front is killed
                os.kill(pid, signal.SIGSTOP)
            await eventually(lambda: len(built.audit("attempt")) > len(built.audit("outcome")))
            front = built.front_pid
            os.kill(front, signal.SIGKILL)
            began = time.monotonic()
            good = sum(bool(done.answer) for done in load.done)
            await eventually(lambda: sum(bool(done.answer) for done in load.done) > good, BACK_S)
            assert time.monotonic() - began < BACK_S
            assert built.front_pid != front
            assert not any(alive(pid) for pid in stopped), "its workers ended with it"
            await load.more(50)
        async with built.connection(OPERATOR) as operator:
            await all_ready(built, operator)
        load.check()
    closed = [record for record in built.audit("outcome") if record["result"] == "unknown"]
    assert closed
    assert all("before the outcome was known" in record["error"] for record in closed)
    assert verified(built) == len(built.audit())


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_a_killed_launcher_ends_all_processes_and_can_start_again(
    open_daemon: Callable[..., Daemon],
) -> None:
    built = open_daemon(workers=2)
    pids = built.pids()
    assert built.process is not None
    built.process.kill()
    built.process.wait()
    wait_until(lambda: not any(alive(pid) for pid in pids), "front and workers have ended", 8)
    assert built.logged("launcher.gone")
    assert built.audit()[-1]["event"] == "daemon.stopped"
    built.process = None
    built.start()
    assert built.stop() == 0


async def test_open_requests_complete_after_the_launcher_is_killed(
    open_daemon: Callable[..., Daemon],
) -> None:
    built = open_daemon()
    key = built.add_key("web")
    async with await ssh(built, WEB) as connection:
        channel = await wire(connection)
        assert (await channel.use(1, key))[0] == Kind.RESULT
        pids = built.pids()
        assert built.process is not None
        channel.write(b"".join(operation(number, key, tls13(number)) for number in range(2, 100)))
        built.process.kill()
        await asyncio.to_thread(built.process.wait)
        built.process = None
        answers = [(await channel.answer(number))[0] for number in range(2, 100)]
    assert set(answers) == {Kind.RESULT}
    await eventually(lambda: not any(alive(pid) for pid in pids), 8)


@pytest.mark.parametrize("end", ["stopped", "front killed"])
def test_a_login_is_not_cut_off(
    open_daemon: Callable[..., Daemon], fault_module: FaultModule, end: str
) -> None:
    """SoftHSM writes its token's file anew at each login: a worker that is killed meanwhile may leave it empty."""
    built = open_daemon(workers=2, before=fault_module.before)
    built.stop()
    before = len(fault_module.calls(Function.LOGIN))
    slow = fault_module.rule(Function.LOGIN, Action.SLEEP, 700, skip=1)
    built.begin()
    wait_until(lambda: slow.hits == 1, "the second worker logs in", 20)
    if end == "front killed":
        os.kill(built.front_pid, signal.SIGKILL)
        wait_until(lambda: slow.hits == 2, "a worker of the next front logs in", 20)
    assert built.stop() == 0
    logins = fault_module.calls(Function.LOGIN)[before:]
    assert len(logins) == 1 + slow.hits, "each login that began has ended"
    assert {login.rv for login in logins} == {CKR.OK}


def test_a_wrong_pin_is_tried_only_once(open_daemon: Callable[..., Daemon]) -> None:
    """No restart tries the PIN again: the token's counter of failed logins does not change."""
    built = open_daemon(workers=2)
    built.stop()
    right = built.pin_file.read_text()
    built.pin_file.write_text("wrong\n")
    built.begin()
    wait_until(lambda: built.logged("token.logins_stopped"), within_s=20)
    wait_until(lambda: not built.worker_pids(), "no worker is left", 20)
    wait_until(lambda: built.logged("token.logins_stopped"), "the front knows it", 10)
    refusals = [line for line in built.logged("worker.failed") if "refused the PIN" in line.get("reason", "")]
    assert len(refusals) == 1, "exactly one login was tried"
    assert built.ask(messages.Status()).tokens[0].state == "login-refused"

    async def use() -> ErrorCode:
        async with await ssh(built, WEB) as connection:
            channel = await wire(connection)
            channel.write(operation(1, b"\7" * 32))
            return ErrorCode((await channel.error(1)).code)

    assert asyncio.run(use()) == ErrorCode.REFUSED
    built.stop()
    for _ in range(3):
        stops = len(built.logged("token.logins_stopped"))
        built.begin()  # a restarted daemon starts no worker
        wait_until(lambda stops=stops: len(built.logged("token.logins_stopped")) > stops, within_s=20)
        assert built.reload() == "done"
        assert built.worker_pids() == []
        assert built.ask(messages.Status()).tokens[0].state == "login-refused"
        built.stop()
    assert len(built.logged("worker.failed")) == 1
    built.begin()
    [token] = built.ask(messages.TokenList()).tokens
    assert token.stopped_at is not None
    assert token.stopped_by.startswith("test on ")
    assert "refused the PIN" in token.stop_reason
    built.ask(
        messages.TokenClear(name="main")
    )  # the PIN is still wrong: after one more try, logins stop again
    wait_until(lambda: len(built.logged("worker.failed")) == 2, within_s=20)
    wait_until(
        lambda: built.ask(messages.TokenList()).tokens[0].stopped_at not in (None, token.stopped_at),
        within_s=20,
    )
    built.pin_file.write_text(right)
    built.ask(messages.TokenClear(name="main"))
    built.wait_for_workers()


async def test_an_audit_log_that_cannot_be_written_stops_uses_and_recovers(
    open_daemon: Callable[..., Daemon],
) -> None:
    built = open_daemon()
    key = built.add_key("web")
    async with await ssh(built, WEB) as connection, built.connection(OPERATOR) as operator:
        channel = await wire(connection)
        assert (await channel.use(1, key))[0] == Kind.RESULT
        built.audit_path.rename(built.audit_path.with_suffix(".away"))
        number = 1
        codes: list[int] = []
        async with asyncio.timeout(5):
            while ErrorCode.AUDIT not in codes:
                number += 1
                kind, body = await channel.use(number, key, tls13(number))
                codes.append(0 if kind == Kind.RESULT else int.from_bytes(body[:2]))
                await asyncio.sleep(0.02)
        assert set(codes) <= {0, ErrorCode.AUDIT}
        status = await operator.control(messages.Status(), timeout_s=5)
        assert not status.audit_writable
        with pytest.raises(Exception, match="audit"):
            await operator.control(messages.ClientAdd("while-away"), timeout_s=5)
        await eventually(lambda: built.logged("audit.unwritable"))
        built.audit_path.with_suffix(".away").rename(built.audit_path)
        await eventually(lambda: built.logged("audit.writable"))
        assert (await channel.use(9_999, key))[0] == Kind.RESULT
        with pytest.raises(Exception, match="no client"):
            await operator.control(messages.ClientRemove("while-away"), timeout_s=5)
    assert "audit.jsonl" in built.logged("audit.unwritable")[0]["reason"]
    verified(built)
    attempts = {record["index"] for record in built.audit("attempt")}
    assert attempts == {record["attempt"] for record in built.audit("outcome")}


def test_a_daemon_starts_on_a_full_disk_and_serves_once_there_is_space(tmp_path: Path) -> None:
    """A full disk prevents the use of keys, but not the start. Without permission to mount one, this tests an ordinary start."""
    built = Daemon(tmp_path / "daemon")
    directory = tmp_path / "daemon" / "audit"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", str(directory)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, check=False, capture_output=True).returncode == 0
    filler = directory / "filler"
    try:
        if mounted:
            with pytest.raises(OSError, match="space"):
                filler.write_bytes(b"x" * 100_000)
        built.begin()
        if mounted:
            assert not built.ask(messages.Status()).audit_writable
            assert built.logged("audit.unwritable")
            with pytest.raises(AuditFailure):
                built.ask(messages.ClientAdd("too-early"))
            filler.unlink()
        wait_until(lambda: built.ask(messages.Status()).audit_writable, within_s=10)
        built.wait_for_workers()
        built.add_key("web")
        assert built.stop() == 0
        verified(built)
    finally:
        built.end()
        if mounted:
            subprocess.run(["umount", str(directory)], check=True)
