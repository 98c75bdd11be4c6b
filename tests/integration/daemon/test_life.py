"""Starting, stopping, reloading and running as different users."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncssh
import pytest

from hsmd.daemon.front.tokens.login_guard import claim_login
from hsmd.daemon.store import Store
from hsmd.errors import ErrorCode
from hsmd.protocol import messages
from hsmd.protocol.frames import Kind, decode_drain
from tests.support.daemon import OPERATOR, WEB, Daemon, public_line, running_daemon
from tests.support.daemon_process import alive
from tests.support.polling import eventually, wait_until
from tests.support.ssh_peer import operation, ssh, wire
from tests.support.tls_bytes import tls13
from tests.support.users import can_read, set_owners, user_of

pytestmark = pytest.mark.timeout(90)
Open = Callable[..., Daemon]


# --- starting ---


def test_the_service_manager_is_told_of_a_daemon_that_can_use_keys(tmp_path: Path) -> None:
    """So that `systemctl restart hsmd` on one host after the other never leaves front ends without a daemon."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notes:
        notes.bind(str(tmp_path / "notify"))
        notes.settimeout(30)
        built = Daemon(tmp_path / "daemon", environment={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        try:
            built.begin()
            assert notes.recv(4096).startswith(b"READY=1\n")
            assert "ready" in [worker.state for worker in built.status().tokens[0].workers]
        finally:
            built.end()


def test_a_daemon_that_waits_for_its_turn_to_log_in_says_so_and_goes_on_by_itself(tmp_path: Path) -> None:
    built = Daemon(tmp_path / "daemon")
    store = Store(built.store_url)
    turn = claim_login(store, "main", "another daemon", datetime.now(UTC) + timedelta(minutes=1)).lease
    assert turn is not None
    try:
        built.begin()
        wait_until(
            lambda: "another login" in built.ask(messages.TokenList()).tokens[0].reason, "the reason", 10
        )
        (finding,) = built.status().findings
        assert (finding.condition, finding.severity) == ("token-starting", "failing")
        assert "another login to the token is under way" in finding.text
        assert "wait a few seconds" in finding.next_step
        store.change(lambda tx: tx.logins.release("main", turn), versioned=False)
        built.wait_for_workers()
        assert built.status().findings == []
    finally:
        built.end()
        store.close()


# --- stopping ---


def test_a_stop_gives_the_turn_to_log_in_back(tmp_path: Path) -> None:
    """Also while the workers cannot load their module, and one after the other is tried."""
    missing = Path("/usr/lib/vendor/libpkcs11.so")
    built = Daemon(tmp_path / "daemon", before=lambda token: replace(token, module=missing))
    try:
        built.begin()
        wait_until(lambda: built.logged("worker.failed"), "a worker has failed", 10)
        assert built.stop() == 0
    finally:
        built.end()
    store = Store(built.store_url)
    assert claim_login(store, "main", "another daemon", datetime.now(UTC)).granted
    store.close()


async def test_a_drain_answers_open_requests_and_notifies_clients(open_daemon: Open) -> None:
    built = open_daemon(stall_ms=60_000, limits={"drain_s": 10})
    key = built.add_key("web")
    worker = built.signing_pids()[0]
    async with await ssh(built, WEB) as connection:
        channel = await wire(connection)
        assert (await channel.use(1, key))[0] == Kind.RESULT
        os.kill(worker, signal.SIGSTOP)
        channel.write(b"".join(operation(number, key, deadline_ms=9_000) for number in range(2, 40)))
        await eventually(lambda: len(built.audit("attempt")) == 39)
        assert built.process is not None
        launcher = built.process
        launcher.terminate()
        await eventually(lambda: any(frame[0] == Kind.DRAIN for frame in channel.frames))
        assert decode_drain(next(frame[2] for frame in channel.frames if frame[0] == Kind.DRAIN)) == 10_000
        channel.write(operation(50, key))
        assert (await channel.error(50)).code == ErrorCode.DRAINING
        with pytest.raises((OSError, asyncssh.Error)):
            await ssh(built, WEB)
        os.kill(worker, signal.SIGCONT)
        for number in range(2, 40):
            assert (await channel.answer(number))[0] == Kind.RESULT
    assert await asyncio.to_thread(launcher.wait, 10) == 0
    outcomes = {record["attempt"] for record in built.audit("outcome")}
    assert outcomes == {record["index"] for record in built.audit("attempt")}
    assert built.audit()[-1]["event"] == "daemon.stopped"


async def test_a_drain_is_limited_in_time(open_daemon: Open) -> None:
    built = open_daemon(stall_ms=60_000, limits={"drain_s": 1})
    key = built.add_key("web")
    os.kill(built.signing_pids()[0], signal.SIGSTOP)
    async with await ssh(built, WEB) as connection:
        channel = await wire(connection)
        channel.write(b"".join(operation(number, key, deadline_ms=60_000) for number in range(1, 4)))
        await eventually(lambda: len(built.audit("attempt")) == 3)
        began = time.monotonic()
        assert await asyncio.to_thread(built.stop) == 0
        assert time.monotonic() - began < 5
    assert {record["attempt"] for record in built.audit("outcome")} >= {
        record["index"] for record in built.audit("attempt")
    }


def test_nothing_is_left_after_a_stop(open_daemon: Open) -> None:
    built = open_daemon(workers=2)
    pids = built.pids()
    assert len(pids) == 4
    assert built.stop() == 0
    assert not any(alive(pid) for pid in pids)


# --- reloading ---


async def test_a_typo_changes_nothing(open_daemon: Open) -> None:
    built = open_daemon()
    key = built.add_key("web")
    good, pids = built.config.read_text(), built.pids()
    for broken in (
        good.replace("[listen]", "[lisen]"),
        good.replace("stall_ms = 2000", "stall_ms = 1"),
        good[:200],
        "",
    ):
        built.config.write_text(broken)
        assert built.reload() == "refused"
    built.config.write_text(good.replace('host_key = "host_key"', 'host_key = "web-1.pub"'))
    assert built.reload() == "refused"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        built.config.write_text(
            good.replace('["127.0.0.1:0"]', f'["127.0.0.1:0", "127.0.0.1:{taken.getsockname()[1]}"]')
        )
        assert built.reload() == "refused"
    assert built.pids() == pids
    async with await ssh(built, WEB) as connection:
        assert (await (await wire(connection)).use(1, key))[0] == Kind.RESULT
    built.config.write_text(good)
    assert built.reload() == "done"
    assert built.pids() == pids


async def test_addresses_and_host_keys_change_without_losing_connections(open_daemon: Open) -> None:
    built = open_daemon()
    key = built.add_key("web")
    before = public_line(built.host_key)
    async with await ssh(built, WEB) as connection:
        channel = await wire(connection)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        built.addresses = [f"127.0.0.1:{port}"]
        built.host_key = asyncssh.generate_private_key("ssh-ed25519")
        ca = asyncssh.generate_private_key("ssh-ed25519")
        built.host_key.write_private_key(built.directory / "host_key")
        certificate = ca.generate_host_certificate(built.host_key, "daemon", principals=["127.0.0.1"])
        certificate.write_certificate(built.directory / "host_key-cert.pub")
        built.host_certificate = "host_key-cert.pub"
        built.write()
        old = built.address
        assert built.reload() == "done"
        with pytest.raises(OSError):
            await asyncio.open_connection(*old)
        assert (await channel.use(1, key))[0] == Kind.RESULT, "the existing connection stays open"
    built.notice = {"addresses": built.addresses, "host_key": before}
    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        await ssh(built, WEB)
    by_ca = ([], [asyncssh.import_public_key(public_line(ca))], [])
    async with await ssh(built, WEB, known_hosts=by_ca) as connection:
        assert (await (await wire(connection)).use(1, key))[0] == Kind.RESULT


@pytest.mark.parametrize("fault", ["other key", "user certificate", "no principal", "RSA key"])
async def test_host_keys_that_clients_would_refuse_are_refused(open_daemon: Open, fault: str) -> None:
    built = open_daemon()
    ca = asyncssh.generate_private_key("ssh-ed25519")
    other = asyncssh.generate_private_key("ssh-ed25519")
    if fault == "RSA key":
        (built.directory / "host_key").write_bytes(
            asyncssh.generate_private_key("ssh-rsa").export_private_key()
        )
    else:
        make = ca.generate_user_certificate if fault == "user certificate" else ca.generate_host_certificate
        principals = [] if fault == "no principal" else ["127.0.0.1"]
        made = make(other if fault == "other key" else built.host_key, "daemon", principals=principals)
        made.write_certificate(built.directory / "bad-cert.pub")
        built.host_certificate = "bad-cert.pub"
        built.write()
    assert built.reload() == "refused"
    reason = built.logged("reload.refused")[-1]["reason"]
    assert reason.startswith("listen.host_"), reason


async def test_new_token_settings_replace_workers_without_a_failed_request(open_daemon: Open) -> None:
    built = open_daemon(workers=1)
    key = built.add_key("web")
    old = built.worker_pids()
    async with await ssh(built, WEB) as connection:
        channel = await wire(connection)
        stop, sent = asyncio.Event(), 0

        async def load() -> None:
            nonlocal sent
            while not stop.is_set():
                first, sent = sent + 1, sent + 16
                channel.write(
                    b"".join(operation(number, key, tls13(number)) for number in range(first, sent + 1))
                )
                for number in range(first, sent + 1):
                    assert (await channel.answer(number))[0] == Kind.RESULT
                channel.frames.clear()

        task = asyncio.create_task(load())
        built.workers, built.stall_ms = 2, 1_500
        built.write()
        assert await asyncio.to_thread(built.reload) == "done"
        await eventually(lambda: built.logged("token.taken_over"), 20)
        await eventually(lambda: not any(alive(pid) for pid in old), 20)
        stop.set()
        await task
    built.wait_for_workers()
    assert len(built.worker_pids()) == 3
    results = [record["result"] for record in built.audit("outcome")]
    assert results == ["performed"] * sent


async def test_wrong_token_settings_leave_the_old_workers_serving(open_daemon: Open) -> None:
    built = open_daemon()
    key = built.add_key("web")
    old = built.worker_pids()
    built.pin_file = built.directory / "wrong-pin"
    built.pin_file.write_text("not the pin\n")
    built.pin_file.chmod(0o600)
    built.write()
    assert built.reload() == "done"
    await eventually(lambda: built.logged("token.logins_stopped"), 20)
    assert all(alive(pid) for pid in old)
    async with await ssh(built, WEB) as connection:
        assert (await (await wire(connection)).use(1, key))[0] == Kind.RESULT
    built.pin_file = built.token.pin_file
    built.write()
    assert built.reload() == "done"
    await eventually(lambda: built.logged("token.logins_stopped"), 20)
    await asyncio.to_thread(built.ask, messages.TokenClear(name="main"))
    await eventually(lambda: not any(alive(pid) for pid in old), 20)
    async with await ssh(built, WEB) as connection:
        assert (await (await wire(connection)).use(1, key))[0] == Kind.RESULT


async def test_changed_limits_apply_to_new_connections(open_daemon: Open) -> None:
    built = open_daemon()
    built.limits = {"channels_per_connection": 1, "open_requests": 1, "queue": 7}
    built.write()
    assert built.reload() == "done"
    assert "limits.queue" in built.logged("reload.needs_restart")[-1]["reason"]
    async with await ssh(built, WEB) as connection:
        await wire(connection)
        with pytest.raises(asyncssh.ChannelOpenError):
            await wire(connection)


# --- not starting ---


@pytest.mark.parametrize("fault", ["host key", "store", "user", "audit"])
def test_a_daemon_that_cannot_start_reports_why_and_exits(tmp_path: Path, fault: str) -> None:
    built = Daemon(tmp_path / "daemon")
    if fault == "host key":
        (built.directory / "host_key").write_text("nonsense")
    elif fault == "store":
        (built.directory / "store.sqlite").write_text("nonsense " * 1_000)
    elif fault == "audit":
        (built.directory / "audit").write_text("not a directory")
    else:
        built.users = ("no-such-user-here", "")
        built.write()
    code = f"from pathlib import Path; import sys; from hsmd.daemon.launcher.app import serve; sys.exit(serve(Path({str(built.config)!r})))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode != 0
    wanted = {"host key": "host_key", "store": "store", "user": "no-such-user-here", "audit": "audit"}[fault]
    assert wanted in done.stderr


# --- users ---


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that other users can traverse, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o711)
        yield Path(name)


async def test_front_and_workers_run_as_different_users(open_directory: Path) -> None:
    """The front cannot read the PIN or the token, the workers neither host key nor store nor audit log."""
    directory = open_directory
    built = Daemon(directory / "daemon", users=("nobody", "daemon"))
    try:
        if os.geteuid() != 0:
            built.start()
            assert built.logged("users.not_changed"), "only root can change users; otherwise the daemon warns"
            return
        front, workers = pwd.getpwnam("nobody"), pwd.getpwnam("daemon")
        set_owners(built, directory, front, workers)
        built.start()
        key = built.add_key("web")
        async with await ssh(built, WEB) as connection:
            assert (await (await wire(connection)).use(1, key))[0] == Kind.RESULT
        assert user_of(built.front_pid) == (front.pw_uid, front.pw_gid)
        assert {user_of(pid) for pid in built.worker_pids()} == {(workers.pw_uid, workers.pw_gid)}
        for pid in built.pids():
            groups = Path(f"/proc/{pid}/status").read_text().partition("Groups:")[2].splitlines()[0].split()
            assert set(groups) <= {str(front.pw_gid), str(workers.pw_gid)}
        assert not can_read(front.pw_uid, built.pin_file)
        assert not can_read(workers.pw_uid, built.directory / "host_key")
        assert not can_read(workers.pw_uid, built.audit_path)
        assert built.stop() == 0
    finally:
        built.end()


def test_a_terminal_interrupt_drains_the_daemon(tmp_path: Path) -> None:
    """Ctrl-C signals the foreground process group; front and workers have groups of their own, and drain properly."""
    with running_daemon(tmp_path / "daemon") as built:
        assert built.process is not None
        os.killpg(built.process.pid, signal.SIGINT)
        assert built.process.wait(10) == 0
        assert built.audit()[-1]["event"] == "daemon.stopped"
        assert not built.logged("front.ended")


def test_a_use_notices_that_the_audit_log_was_moved(tmp_path: Path) -> None:
    with running_daemon(tmp_path / "daemon") as built:
        key = built.add_key("web")

        async def use() -> int:
            async with await ssh(built, WEB) as connection:
                channel = await wire(connection)
                channel.write(operation(1, key))
                kind, body = await channel.answer(1)
                return kind if kind == Kind.RESULT else int.from_bytes(body[:2])

        moved = built.audit_path.with_suffix(".moved")
        built.audit_path.rename(moved)
        wait_until(lambda: asyncio.run(use()) == ErrorCode.AUDIT, within_s=10)
        wait_until(lambda: built.logged("audit.unwritable"), within_s=5)
        with pytest.raises(Exception, match="audit"):
            built.ask(messages.ClientAdd("x"), OPERATOR)
        assert built.ask(messages.Status(), OPERATOR).audit_writable is False
        moved.rename(built.audit_path)
        wait_until(lambda: built.logged("audit.writable"), within_s=5)
        assert asyncio.run(use()) == Kind.RESULT
