"""`hsmd dev` and `hsmd.testing`: a complete daemon, removed at the end, any number at the same time."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import hsmd
from hsmd.testing import Daemon

DEV = [sys.executable, "-m", "hsmd.cli", "dev", "--json-ready", "--key", "www"]
END_S = 20.0


def eventually(condition: Callable[[], bool], seconds: float = END_S) -> bool:
    """Wait for a condition; return whether it became true in time."""
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(0.05)
    return True


def processes_of(directory: str) -> list[int]:
    """Processes that name the directory in their arguments: launcher, front and agent of a temporary daemon."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and directory.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def ready_line(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "`hsmd dev` ended before it was ready"
    ready: dict[str, Any] = json.loads(line)
    return ready


@pytest.fixture
def dev(request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    """A running `hsmd dev` and its ready line."""
    process = subprocess.Popen(DEV, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield process, ready_line(process)
    finally:
        process.terminate()
        process.communicate(timeout=END_S)


def is_gone(ready: dict[str, Any]) -> bool:
    """Whether no directory, process or listener on the port is left."""
    if Path(ready["directory"]).exists() or processes_of(ready["directory"]):
        return False
    host, _, port = ready["address"].rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) != 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_hsmd_dev_and_removes_everything(
    dev: tuple[subprocess.Popen[bytes], dict[str, Any]], number: int
) -> None:
    process, ready = dev
    assert len(processes_of(ready["directory"])) >= 2
    process.send_signal(number)
    assert process.wait(END_S) == 0
    assert is_gone(ready)


def test_closing_its_input_ends_hsmd_dev(dev: tuple[subprocess.Popen[bytes], dict[str, Any]]) -> None:
    process, ready = dev
    assert process.stdin is not None
    process.stdin.close()
    process.stdin = None
    assert process.wait(END_S) == 0
    assert is_gone(ready)


def test_hsmd_dev_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    report = tmp_path / "ready"
    script = f"import subprocess; subprocess.Popen({DEV!r}, stdin=subprocess.DEVNULL, stdout=open({str(report)!r}, 'w')).wait()"
    parent = subprocess.Popen([sys.executable, "-c", script])
    assert eventually(lambda: report.exists() and report.read_text().endswith("\n"))
    ready = json.loads(report.read_text())
    parent.kill()
    parent.wait()
    assert eventually(lambda: is_gone(ready))


def test_no_process_remains_when_hsmd_dev_is_killed(
    dev: tuple[subprocess.Popen[bytes], dict[str, Any]],
) -> None:
    process, ready = dev
    process.kill()
    assert eventually(lambda: not processes_of(ready["directory"]))
    assert Path(ready["directory"]).exists()
    with Daemon(["www"], agent=False) as successor:
        assert not Path(ready["directory"]).exists()
        assert successor.directory.exists()


def test_several_daemons_run_at_the_same_time(tmp_path: Path) -> None:
    processes = [subprocess.Popen(DEV, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(3)]
    ready = [ready_line(process) for process in processes]
    for name in ("address", "directory", "host_key"):
        assert len({each[name] for each in ready}) == 3
    for process in processes:
        process.communicate(timeout=END_S)
    assert all(is_gone(each) for each in ready)


def test_secrets_are_in_no_arguments_and_no_environment(
    dev: tuple[subprocess.Popen[bytes], dict[str, Any]],
) -> None:
    process, ready = dev
    pin = (Path(ready["directory"]) / "softhsm" / "pin").read_bytes().strip()
    assert len(pin) >= 16
    family = [process.pid, *processes_of(ready["directory"])]
    for pid in [*family, *_children_of(family)]:
        assert pin not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert pin not in Path(f"/proc/{pid}/environ").read_bytes()


def _children_of(parents: list[int]) -> list[int]:
    found = []
    for parent in parents:
        for task in Path(f"/proc/{parent}/task").iterdir():
            found += [int(pid) for pid in (task / "children").read_text().split()]
    return found


def test_files_are_private(dev: tuple[subprocess.Popen[bytes], dict[str, Any]]) -> None:
    _, ready = dev
    directory = Path(ready["directory"])
    assert directory.stat().st_mode & 0o077 == 0
    for private in ("host_ed25519", "operator", "front-end", "softhsm/pin", "hsmd.toml", "operator.toml"):
        assert (directory / private).stat().st_mode & 0o077 == 0, private


def test_wrong_keys_are_refused_before_anything_starts() -> None:
    done = subprocess.run([*DEV, "--key", "www"], capture_output=True, text=True, timeout=END_S, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "same name" in done.stderr


def test_a_key_that_the_daemon_refuses_ends_hsmd_dev_and_cleans_up(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [*DEV, "--key", "odd:rsa-1024"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )
    assert done.returncode == 1
    assert "--key odd:rsa-1024: key_type" in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_the_context_manager_for_other_projects_tests() -> None:
    with Daemon(["www:p-256", "shop:rsa-2048:tls13-server"], agent=False) as daemon:
        assert set(daemon.keys) == {"www", "shop"}
        listed = {key["name"] for key in daemon.command("key", "list")["keys"]}
        assert listed - {"hsmd-checkpoint"} == {"www", "shop"}, (
            "the daemon makes a key of its own a moment later"
        )
        assert daemon.agent_socket is None
        directory = daemon.directory
    assert not directory.exists()


PLUGIN_TEST = """
def test_key(hsmd_key, hsmd_client, hsmd_daemon):
    from hsmd.protocol.messages import KeyShow
    assert hsmd_client.control(KeyShow(hsmd_key.name)).digest == hsmd_key.digest.hex()
    assert "BEGIN CERTIFICATE" in hsmd_key.chain.read_text()
    assert "HSMD KEY REFERENCE" in hsmd_key.reference.read_text()
    assert hsmd_daemon.agent_socket.is_socket()
    print("DAEMON", hsmd_daemon.address)

def test_again(hsmd_key, hsmd_daemon):
    print("DAEMON", hsmd_daemon.address)
"""


def test_the_fixtures_work_as_a_plugin(tmp_path: Path) -> None:
    (tmp_path / "test_them.py").write_text(PLUGIN_TEST)
    arguments = ["-p", "hsmd.testing", "-p", "no:cacheprovider", "-s", "-q", "--rootdir", str(tmp_path)]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))
    }
    environment |= {"PYTHONPATH": str(Path(hsmd.__file__).parents[1]), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    addresses = {
        word for line in done.stdout.splitlines() for word in line.split() if word.startswith("127.0.0.1:")
    }
    assert len(addresses) == 1, "one daemon for the session"


def test_the_plugin_imports_no_large_packages() -> None:
    script = (
        "import sys, pytest; before = set(sys.modules); import hsmd.testing\n"
        "heavy = {'asyncssh', 'cryptography', 'msgspec', 'typer', 'rich', 'sqlalchemy', 'asyncio', 'hsmd.client'}\n"
        "assert not heavy & (set(sys.modules) - before), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)
