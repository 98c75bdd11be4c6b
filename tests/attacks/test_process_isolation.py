"""Inspecting hsmd's processes and breaking out of one (A10): other users, the same user, core dumps, argument lists, a hostile module."""

from __future__ import annotations

import json
import os
import pwd
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from hsmd.daemon.worker import memory_lock
from hsmd.daemon.worker.memory_lock import lock_memory
from hsmd.errors import Unavailable
from hsmd.pkcs11.softhsm import SoftHsmToken, make_token
from hsmd.protocol import messages
from tests.support.daemon import OPERATOR, ROOT, WEB, Daemon
from tests.support.polling import wait_until
from tests.support.tls_bytes import CERTIFICATE_VERIFY
from tests.support.tokens import RawWorker, generate, settings_of
from tests.support.users import can_read, interpreter_for_all, set_owners, user_of

IS_ROOT = os.geteuid() == 0
UNRELATED_UID = 54_321
"""A user id that owns nothing."""

INSPECT = """
import ctypes, json, os, sys
pid = int(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
worked = []
def attempt(name, step):
    try:
        step()
        worked.append(name)
    except OSError:
        pass
def called(number):
    if number < 0:
        raise OSError(ctypes.get_errno(), "")
def attach():
    called(libc.ptrace(16, pid, 0, 0))
    os.waitpid(pid, 0x40000000)
    libc.ptrace(17, pid, 0, 0)
def first_mapping():
    with open(f"/proc/{pid}/maps") as file:
        return int(file.readline().split("-")[0], 16)
def memory():
    with open(f"/proc/{pid}/mem", "rb", 0) as file:
        file.read(0)
class Piece(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
def across():
    here = ctypes.create_string_buffer(8)
    local, remote = Piece(ctypes.addressof(here), 8), Piece(int(sys.argv[2]), 8)
    called(libc.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0))
attempt("ptrace", attach)
attempt("maps", first_mapping)
attempt("mem", memory)
attempt("process_vm_readv", across)
attempt("environ", lambda: open(f"/proc/{pid}/environ", "rb").read())
attempt("fd", lambda: os.listdir(f"/proc/{pid}/fd"))
print(json.dumps(worked))
"""
EVERYTHING = {"ptrace", "maps", "mem", "process_vm_readv", "environ", "fd"}
VICTIM = "import ctypes, time; ctypes.CDLL(None).prctl(0x59616D61, -1, 0, 0, 0); print('up', flush=True); time.sleep(60)"
"""An ordinary process; it permits tracing where Yama would forbid it."""


@dataclass
class Scene:
    """A daemon whose processes run as separate users if the tests run as root, and its agent."""

    daemon: Daemon
    agent: subprocess.Popen[bytes]
    agent_log: Path
    python: str

    def processes(self) -> dict[str, int]:
        """The pid of one process of each kind, by name."""
        assert self.daemon.process is not None
        return {
            "launcher": self.daemon.process.pid, "front": self.daemon.front_pid,
            "worker": self.daemon.signing_pids()[0], "control worker": self.daemon.worker_pids()[-1],
            "agent": self.agent.pid,
        }  # fmt: skip

    def inspect(self, pid: int, uid: int, address: int = 0) -> set[str]:
        """The ways of inspecting the process that succeed for a user."""
        identity = {"user": uid, "group": uid, "extra_groups": []} if IS_ROOT else {}
        done = subprocess.run(
            [self.python, "-c", INSPECT, str(pid), str(address or first_mapping(pid))],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
            cwd="/",
            **identity,
        )
        return set(json.loads(done.stdout))


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with tempfile.TemporaryDirectory(prefix="hsmd-") as name:
        directory = Path(name)
        directory.chmod(0o711)
        built = Daemon(directory / "daemon", users=("nobody", "daemon") if IS_ROOT else ("", ""))
        python = sys.executable
        if IS_ROOT:
            set_owners(built, directory, pwd.getpwnam("nobody"), pwd.getpwnam("daemon"))
            python = interpreter_for_all(directory, UNRELATED_UID)
        agent: subprocess.Popen[bytes] | None = None
        try:
            built.start()
            built.add_key("www")
            agent = start_agent(built, directory)
            yield Scene(built, agent, directory / "agent.log", python)
        finally:
            if agent is not None:
                agent.kill()
                agent.wait()
            built.end()


def start_agent(built: Daemon, directory: Path) -> subprocess.Popen[bytes]:
    config, run = directory / "agent.toml", directory / "run"
    run.mkdir(mode=0o755)
    host, port = built.address
    config.write_text(f"""
[agent]
client = "{WEB}"
identity = "{built.directory / WEB}"
socket = "{run}/agent.sock"
mode = "0666"
state = "{directory}/agent-state"
[defaults]
users = ["*"]
[[daemon]]
address = "{host}:{port}"
host_keys = ["{built.notice["host_key"]}"]
""")
    with (directory / "agent.log").open("wb") as log:
        agent = subprocess.Popen(
            [sys.executable, "-m", "hsmd.cli", "agent", "run", "--config", str(config)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
        )
    wait_until(
        lambda: "cache.changed" in (directory / "agent.log").read_text(), "the agent has the list of keys", 20
    )
    return agent


def first_mapping(pid: int) -> int:
    """A mapped address; a guess where the test itself may not read the mappings."""
    try:
        return int(Path(f"/proc/{pid}/maps").read_text().partition("-")[0] or "400000", 16)
    except PermissionError:
        return 0x400000


# --- inspecting ---


def test_the_same_user_cannot_inspect_a_process(scene: Scene) -> None:
    """PR_SET_DUMPABLE: code that runs as front, worker or agent cannot inspect another process of that user."""
    for name, pid in scene.processes().items():
        uid = user_of(pid)[0]
        if uid != 0 or not IS_ROOT:  # root may inspect every process
            assert scene.inspect(pid, uid) == set(), name


@pytest.mark.parametrize("user", ["front", "workers", "unrelated"])
def test_other_users_cannot_inspect_a_process(scene: Scene, user: str) -> None:
    """The front cannot trace a worker, nor a worker the front; both run as separate users if root started the daemon."""
    uids = {
        "front": user_of(scene.daemon.front_pid)[0],
        "workers": user_of(scene.daemon.signing_pids()[0])[0],
        "unrelated": UNRELATED_UID,
    }
    if IS_ROOT:
        assert 0 not in uids.values()
        assert len(set(uids.values())) == 3
    for name, pid in scene.processes().items():
        assert scene.inspect(pid, uids[user]) == set(), name


def test_the_inspection_works_on_an_unprotected_process(scene: Scene) -> None:
    """The same program succeeds on an unprotected process."""
    identity = {"user": UNRELATED_UID, "group": UNRELATED_UID, "extra_groups": []} if IS_ROOT else {}
    victim = subprocess.Popen([scene.python, "-c", VICTIM], stdout=subprocess.PIPE, cwd="/", **identity)
    try:
        assert victim.stdout is not None
        assert victim.stdout.readline() == b"up\n"
        assert scene.inspect(victim.pid, UNRELATED_UID) == EVERYTHING
    finally:
        victim.kill()
        victim.communicate()


def test_each_process_reads_only_the_files_it_needs(scene: Scene) -> None:
    """The front reads neither PIN nor token; workers neither store nor log nor host key; unrelated users none of them."""
    if not IS_ROOT:
        assert scene.daemon.pin_file.stat().st_mode & 0o077 == 0
        return
    built = scene.daemon
    front, workers = user_of(built.front_pid)[0], user_of(built.signing_pids()[0])[0]
    secret_of_workers = [built.pin_file, built.pin_file.parent, built.pin_file.parent / "tokens"]
    secret_of_front = [
        built.directory / "store.sqlite",
        built.directory / "audit",
        built.audit_path,
        built.directory / "host_key",
    ]
    assert [path for path in secret_of_workers if can_read(front, path)] == []
    assert [path for path in secret_of_front if can_read(workers, path)] == []
    assert [path for path in (*secret_of_workers, *secret_of_front) if can_read(UNRELATED_UID, path)] == []
    assert all(can_read(workers, path) for path in secret_of_workers)
    assert all(can_read(front, path) for path in secret_of_front)


def test_the_pin_is_in_no_argument_list_environment_or_log(scene: Scene) -> None:
    """Nor is it in a configuration file: only the workers read the PIN file."""
    pin = scene.daemon.pin_file.read_bytes().strip()
    assert len(pin) >= 4
    pids = {**scene.processes(), **{f"child {pid}": pid for pid in scene.daemon.pids()}}
    for name, pid in pids.items():
        if IS_ROOT:
            assert pin not in Path(f"/proc/{pid}/environ").read_bytes(), name
        assert pin not in Path(f"/proc/{pid}/cmdline").read_bytes(), name
    scene.daemon.ask(messages.Status(), OPERATOR)
    for path in (scene.daemon.log_path, scene.agent_log, scene.daemon.audit_path, scene.daemon.config):
        assert pin not in path.read_bytes(), path


def test_no_process_can_gain_privileges_or_dump_core(scene: Scene) -> None:
    for name, pid in scene.processes().items():
        assert field(pid, "status", "NoNewPrivs:") == "1", name
        assert Path(f"/proc/{pid}/limits").read_text().partition("Max core file size")[2].split()[:2] == [
            "0",
            "0",
        ], name


def test_workers_are_sandboxed_and_lock_memory_or_log_why_not(scene: Scene) -> None:
    for pid in scene.daemon.worker_pids():
        assert field(pid, "status", "Seccomp:") == "2"
        warned = pid in [line["pid"] for line in scene.daemon.logged("worker.memory_not_locked")]
        assert warned == (int(field(pid, "status", "VmLck:")) < 1024)


def test_a_worker_that_must_lock_memory_and_cannot_does_not_start(
    token: SoftHsmToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_lock.resource, "getrlimit", lambda _: (1 << 20, 1 << 20))
    monkeypatch.setattr(memory_lock.os, "geteuid", lambda: 1000)
    assert "LimitMEMLOCK=infinity" in lock_memory(settings_of(token))
    assert lock_memory(settings_of(token, lock_memory="never")) == ""
    with pytest.raises(Unavailable) as refused:
        lock_memory(settings_of(token, lock_memory="always"))
    assert "the limit is 1024 KiB" in refused.value.detail


def field(pid: int, file: str, name: str) -> str:
    return Path(f"/proc/{pid}/{file}").read_text().partition(name)[2].split()[0]


def test_an_abort_leaves_no_core(tmp_path: Path) -> None:
    """Abort a process of every kind, and one that has raised the limit again: none leaves a core."""
    built = Daemon(tmp_path / "daemon")
    directories = {ROOT, built.directory}
    before = {path for directory in directories for path in directory.glob("*core*")}
    try:
        built.start()
        for pid in (built.signing_pids()[0], built.worker_pids()[-1], built.front_pid):
            os.kill(pid, signal.SIGABRT)
            wait_until(lambda pid=pid: pid not in built.pids(), within_s=10)
        wait_until(lambda: len(built.logged("front.ready")) == 2, within_s=20)
        assert built.process is not None
        left = built.pids()
        built.process.send_signal(signal.SIGABRT)
        assert built.process.wait(10) == -signal.SIGABRT
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left), within_s=10)
    finally:
        built.end()
    assert {path for directory in directories for path in directory.glob("*core*")} == before
    child = os.fork()
    if child == 0:
        abort_hardened(tmp_path)
    assert not os.WCOREDUMP(os.waitpid(child, 0)[1])
    assert not list(tmp_path.glob("*core*"))


def abort_hardened(directory: Path) -> None:
    from hsmd.system.process import harden

    os.chdir(directory)
    harden()
    with suppress(ValueError):  # only root with all its capabilities may raise it
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    os.kill(os.getpid(), signal.SIGABRT)
    os._exit(0)


# --- breaking out ---

BREAK_OUT = """
import ctypes, errno, json, os, socket, sys, threading
import msgspec
from hsmd.daemon.ipc import sandbox
from hsmd.pkcs11.session import open_token
from hsmd.daemon.ipc.worker_settings import WorkerSettings
from hsmd.system.process import harden

harden()
settings = msgspec.json.decode(sys.argv[1], type=WorkerSettings)
libc = ctypes.CDLL(None, use_errno=True)
earlier, go = [], threading.Event()
def of_the_module():
    go.wait()
    earlier.append(attempt(lambda: os.execv("/bin/true", ["true"])))
def attempt(step):
    try:
        step()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
def call(name, *arguments):
    number = pyseccomp.resolve_syscall(0, name)
    def step():
        if libc.syscall(ctypes.c_long(number), *[ctypes.c_long(value) for value in arguments]) < 0:
            raise OSError(ctypes.get_errno(), name)
    return attempt(step)
thread = threading.Thread(target=of_the_module)
thread.start()
enclose = sandbox.prepare(settings)
token = open_token(settings.token)
enclose()
import pyseccomp
results = {
    "execve": attempt(lambda: os.execv("/bin/true", ["true"])),
    "fork": attempt(os.fork),
    "posix_spawn": attempt(lambda: os.posix_spawn("/bin/true", ["true"], {})),
    "ptrace": call("ptrace", 0, 0, 0, 0),
    "process_vm_readv": call("process_vm_readv", os.getppid(), 0, 0, 0, 0, 0),
    "pidfd_getfd": call("pidfd_getfd", 0, 0, 0),
    "keyctl": call("keyctl", 0, 0, 0),
    "bpf": call("bpf", 0, 0, 0),
    "mount": call("mount", 0, 0, 0, 0, 0),
    "unshare": call("unshare", 0x10000000),
    "setns": call("setns", 0, 0),
    "perf_event_open": call("perf_event_open", 0, 0, 0, 0, 0),
    "userfaultfd": call("userfaultfd", 0),
    "io_uring_setup": call("io_uring_setup", 1, 0),
    "init_module": call("init_module", 0, 0, 0),
    "clone of a process": call("clone", 17, 0, 0, 0, 0),
    "clone3": call("clone3", 0, 0),
    "inet": attempt(lambda: socket.socket(socket.AF_INET).close()),
    "inet6": attempt(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()),
    "packet": attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()),
    "alg": attempt(lambda: socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET).close()),
    "packet with upper bits": call("socket", 1 << 32 | socket.AF_PACKET, socket.SOCK_RAW, 0),
    "alg with upper bits": call("socket", 1 << 40 | socket.AF_ALG, socket.SOCK_SEQPACKET, 0),
    "vsock with all upper bits": call("socket", -(1 << 32) | socket.AF_VSOCK, socket.SOCK_STREAM, 0),
    "inet with upper bits": call("socket", 1 << 32 | socket.AF_INET, socket.SOCK_STREAM, 0),
    "fork with upper bits": call("clone", 1 << 32 | 17, 0, 0, 0, 0),
    "unix": attempt(lambda: socket.socket(socket.AF_UNIX).close()),
}
go.set()
thread.join()
results["execve in an older thread"] = earlier[0]
after = threading.Thread(target=lambda: results.__setitem__("thread", "done"))
after.start()
after.join()
list(token.session.get_objects())
results["token"] = "done"
print(json.dumps(results), flush=True)
os._exit(0)
"""


def break_out(token: SoftHsmToken, **changes: object) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", BREAK_OUT, msgspec.json.encode(settings_of(token, **changes)).decode()],
        env={**os.environ, **token.environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_code_in_a_worker_cannot_start_or_reach_anything(token: SoftHsmToken) -> None:
    """A probe in a worker's sandbox on a real token, with a thread of the module; what a module needs still works."""
    found = break_out(token)
    works = {"unix", "thread", "token"}
    assert {name for name, result in found.items() if result == "done"} == works
    assert found.pop("clone3") == "ENOSYS"
    assert {result for name, result in found.items() if name not in works} == {"EPERM"}


def test_a_module_that_needs_the_network_gets_only_ip(token: SoftHsmToken) -> None:
    found = break_out(token, network=True)
    assert {name for name, result in found.items() if result == "done"} == {
        "unix",
        "thread",
        "token",
        "inet",
        "inet6",
        "inet with upper bits",
    }


def test_without_a_sandbox_the_probe_escapes(token: SoftHsmToken) -> None:
    """Shows that the test above tests the sandbox and not the machine: without it, execve replaces the probe."""
    with pytest.raises((AssertionError, json.JSONDecodeError)):
        break_out(token, sandbox="off")


def test_a_worker_that_needs_a_sandbox_does_not_run_without_it(tmp_path: Path) -> None:
    """Without libseccomp neither worker nor daemon starts, and both report the remedy."""
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "pyseccomp.py").write_text("raise RuntimeError('Unable to find libseccomp')")
    token = make_token(tmp_path / "token")
    environment = {"PYTHONPATH": f"{fake}:{ROOT}", **token.environment, "PATH": os.environ["PATH"]}
    settings = settings_of(token)
    code = (
        "import sys, msgspec\nfrom hsmd.daemon.ipc import sandbox\nfrom hsmd.daemon.ipc.worker_settings import WorkerSettings\n"
        "from hsmd.errors import Unavailable\nsettings = msgspec.json.decode(sys.argv[1], type=WorkerSettings)\n"
        "try:\n    sandbox.prepare(settings)\nexcept Unavailable as error:\n    print(error.detail)\n"
        "sandbox.prepare(msgspec.structs.replace(settings, sandbox='off'))()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, msgspec.json.encode(settings).decode()],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "install libseccomp" in done.stdout
    assert 'sandbox = "off"' in done.stdout
    built = Daemon(tmp_path / "daemon")
    start = f"from pathlib import Path\nfrom hsmd.daemon.launcher.app import serve\nserve(Path({str(built.config)!r}))"
    refused = subprocess.run(
        [sys.executable, "-c", start],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert refused.returncode != 0
    assert "token.sandbox" in refused.stderr


def test_a_sandboxed_worker_signs_generates_and_destroys_keys(fresh_token: SoftHsmToken) -> None:
    """SoftHSM creates, locks and removes files for this, which the sandbox permits."""
    control = RawWorker(fresh_token, {"control": True}).ready()
    made = generate(control, "www", "p-256", ["tls-server"])
    worker = RawWorker(fresh_token).ready()
    try:
        assert field(worker.spawned.pid, "status", "Seccomp:") == "2"
        assert worker.use(1, 0x0403, bytes.fromhex(made.key), CERTIFICATE_VERIFY)
    finally:
        worker.close()
        control.close()
