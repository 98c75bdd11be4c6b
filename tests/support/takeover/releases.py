"""Old and new programs on the directories of tests/vectors/takeover, which an earlier release made.

Uses only the command line, files and the protocol; it imports nothing of hsmd, so that names inside of it can change.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.polling import wait_until
from tests.support.takeover import agent_socket

ROOT = Path(__file__).resolve().parents[3]
VECTORS = ROOT / "tests" / "vectors" / "takeover"
EXPECTED: dict[str, Any] = json.loads((VECTORS / "expected.json").read_text())
READY_S = 60.0
COMMAND_S = 60.0
STOP_S = 20.0
PROBLEMS = 4
"""The exit code if `grant explain` found a refusal, a log is not intact, or a daemon's log is refused."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


# --- programs ---


@dataclass(frozen=True, slots=True)
class Release:
    """How to run the `hsmd` of one release: interpreter with options, module search path, working directory."""

    python: tuple[str, ...]
    path: tuple[Path, ...]
    directory: Path

    def line(self, *arguments: str | Path) -> list[str]:
        return [*self.python, "-m", "hsmd.cli", *map(str, arguments)]

    @property
    def environment(self) -> dict[str, str]:
        ignored = ("OPENSSL_", "SOFTHSM2_", "HSMD_", "XDG_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ignored)}
        return {**kept, "PYTHONPATH": os.pathsep.join(map(str, self.path)), "HOME": str(self.directory)}

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.line(*arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            cwd=self.directory,
            env=self.environment,
            check=False,
        )

    def ask(self, *arguments: str | Path, codes: Sequence[int] = (0,)) -> Any:
        """Run a command; return its JSON document. It must end with one of the exit codes."""
        done = self.run(*arguments, "--json")
        assert done.returncode in codes, (
            f"hsmd {arguments} ended with {done.returncode}: {done.stderr}{done.stdout}"
        )
        return json.loads(done.stdout)

    @contextmanager
    def running(
        self, log: Path, *arguments: str | Path, fds: Sequence[int] = ()
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command, which gets SIGTERM at the end of the block, and is then killed with all its children."""
        with log.open("ab") as output:
            child = subprocess.Popen(
                self.line(*arguments),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=fds,
                cwd=self.directory,
                env={**self.environment, "RUNTIME_DIRECTORY": str(log.parent)},
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        try:
            yield child
        finally:
            child.terminate()
            with suppress(subprocess.TimeoutExpired):
                child.wait(STOP_S)
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def wait_for(condition: Callable[[], object], what: str, log: Path) -> None:
    """As `wait_until`; the error shows the end of the log."""
    try:
        wait_until(condition, what, READY_S)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{log.read_text()[-4000:]}") from None


def _end_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


# --- the fixtures ---


def unpack_wheel(directory: Path) -> Release:
    """The previous release, unpacked from its wheel.

    `-S` omits the site module, and so the import hook of an editable install, which would precede PYTHONPATH;
    the directories of the dependencies are named instead, after the wheel.
    """
    wheel = directory / "wheel"
    with zipfile.ZipFile(VECTORS / EXPECTED["wheel"]) as packed:
        packed.extractall(wheel)
    installed = [Path(entry) for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
    return Release((sys.executable, "-S", "-P"), (wheel, *installed), directory)


def install_wheel(directory: Path) -> Release:
    """The previous release in a virtual environment of its own, so that its daemon's processes are of that release too.

    They are started without PYTHONPATH. The dependencies come from the directories of this interpreter: a line in a .pth
    file adds a directory without the .pth files in it, and so without the import hook of an editable install.
    """
    venv.create(directory / "venv", with_pip=False)
    python = directory / "venv" / "bin" / "python"
    where = [str(python), "-P", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.check_output(where, text=True, timeout=COMMAND_S).strip())
    with zipfile.ZipFile(VECTORS / EXPECTED["wheel"]) as packed:
        packed.extractall(packages)
    installed = [entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
    (packages / "dependencies.pth").write_text("\n".join(installed) + "\n")
    return Release((str(python), "-P"), (), directory)


def unpack(name: str, parent: Path, changes: Mapping[str, str]) -> Path:
    """Unpack the directory in `name`.tar.gz below `parent`; replace its old path, and those in `changes`, in all its texts."""
    parent.mkdir(exist_ok=True)
    # tar instead of tarfile, which needs a filter argument that Debian 12's Python may lack, or drops modes.
    packed = str(VECTORS / f"{name}.tar.gz")
    subprocess.run(
        ["tar", "-xpzf", packed, "-C", str(parent), "--no-same-owner"], check=True, timeout=COMMAND_S
    )
    relocate(parent / name, {f"{EXPECTED['base']}/{name}/": f"{parent / name}/", **changes})
    return parent / name


def relocate(directory: Path, changes: Mapping[str, str]) -> None:
    """Replace paths and addresses in configurations and witness memories; file modes are kept."""
    for path in [
        *directory.rglob("*.toml"),
        *directory.rglob("*.conf"),
        *directory.glob("**/witness/*.json"),
    ]:
        text = path.read_text()
        for old_text, new_text in changes.items():
            text = text.replace(old_text, new_text)
        path.write_text(text)


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running daemon."""

    directory: Path
    address: str
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> bytes:
        """The complete audit log: sealed segments and the live file."""
        return log_bytes(self.directory / "audit")

    def stop(self) -> None:
        """End it with SIGTERM."""
        self.process.terminate()
        assert self.process.wait(STOP_S) == 0


def log_bytes(directory: Path) -> bytes:
    """The records of a log in a directory, in their order."""
    files = [*sorted((directory / "segments").glob("*.jsonl")), directory / "audit.jsonl"]
    return b"".join(path.read_bytes() for path in files)


ANY_PORT = {EXPECTED["address"]: "127.0.0.1:0", EXPECTED["metrics"]: "127.0.0.1:0"}
"""Replacements in hsmd.toml."""


@contextmanager
def serving(release: Release, directory: Path) -> Iterator[Daemon]:
    """Run `hsmd serve` on a daemon directory; `address` has the port that the system chose."""
    reader, writer = os.pipe()
    output = directory.parent / f"{directory.name}.log"
    arguments = ("serve", "--config", directory / "hsmd.toml", "--ready-fd", str(writer))
    with (
        os.fdopen(reader, "rb", buffering=0) as pipe,
        release.running(output, *arguments, fds=(writer,)) as process,
    ):
        os.close(writer)
        os.set_blocking(pipe.fileno(), False)
        notice = bytearray()

        def announced() -> bool:
            assert process.poll() is None, output.read_text()[-4000:]
            notice.extend(pipe.read() or b"")
            return notice.endswith(b"\n")

        wait_for(announced, "the daemon serves", output)
        yield Daemon(directory, json.loads(notice)["addresses"][0], process)


class Operator:
    """An operator's directory, from which one release's commands reach one daemon."""

    def __init__(self, release: Release, directory: Path, profile: str = "operator.toml") -> None:
        self.release = release
        self.directory = directory
        self.profile = directory / profile

    def ask(self, *arguments: str | Path, codes: Sequence[int] = (0, PROBLEMS)) -> Any:
        """Run a command; return its JSON document."""
        return self.release.ask(*arguments, "--profile", self.profile, codes=codes)

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command that may fail."""
        return self.release.run(*arguments, "--profile", self.profile, "--json")

    def wait_for_token(self) -> None:
        """Wait until all workers of the daemon are ready."""

        def ready() -> bool:
            workers = self.ask("status")["daemon"]["tokens"][0]["workers"]
            return bool(workers) and all(worker["state"] in ("ready", "spare") for worker in workers)

        wait_until(ready, "the token is ready")


def operator(release: Release, parent: Path, daemon: Daemon, profile: str = "operator.toml") -> Operator:
    """A separate operator's directory below `parent`, for this daemon."""
    return Operator(release, unpack("operator", parent, {EXPECTED["address"]: daemon.address}), profile)


@contextmanager
def agent_running(release: Release, directory: Path, *, connected: bool = True) -> Iterator[Path]:
    """Run `hsmd agent run` on an agent's directory; yield its socket once it is connected (or at least answers)."""
    socket, log = directory / "agent.sock", directory.parent / "agent.log"
    with release.running(log, "agent", "run", "--config", directory / "agent.toml") as process:

        def ready() -> bool:
            assert process.poll() is None, log.read_text()[-4000:]
            return agent_socket.connected(socket) if connected else agent_socket.answers(socket)

        wait_for(ready, "the agent is ready", log)
        yield socket


def use_granted(socket: Path, expected: Mapping[str, Any], client: str = "web-1") -> set[str]:
    """Use each key for each purpose granted to the client, and check the answers; return the names of the keys."""
    documents = {key["name"]: key for key in expected["keys"]}
    granted = [
        agent_socket.Key.of({**documents[grant["key"]], "purposes": grant["purposes"]})
        for grant in expected["grants"]
        if grant["client"] == client
    ]
    names = {key.name for key in granted}
    # Grants that were added since the agent last ran reach it only after it has connected.
    wait_until(lambda: names <= agent_socket.key_names(socket), f"the agent knows {names}")
    for key in granted:
        assert agent_socket.use_and_check(socket, key), f"no purpose of {key.name} was tried"
    return names


# --- the shared daemon ---


@dataclass(frozen=True, slots=True)
class TakenOver:
    """The new daemon with the old directory, and its contents before any test changed them."""

    daemon: Daemon
    operator: Operator
    held: dict[str, Any]
