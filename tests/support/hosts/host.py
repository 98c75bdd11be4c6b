"""One host: a systemd as PID 1 of its own namespaces, and what a test does with it."""

from __future__ import annotations

import ctypes
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.support.hosts.networks import Network
from tests.support.hosts.requirements import SetupError
from tests.support.hosts.roots import REPOSITORY, Root
from tests.support.polling import wait_until
from tests.support.processes import children

BOOT_S = 60.0
_KEEPER = Path(__file__).with_name("keeper.sh")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PACKAGE_SERVERS = (
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "PIP_INDEX_URL",
    "PIP_CERT",
    "PIP_DEFAULT_TIMEOUT",
)
_HSMD_PACKAGES = "/opt/hsmd-packages"
_HSMD_LAUNCHER = "#!/opt/hsmd/bin/python\nfrom hsmd.cli import main\n\nmain()\n"
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Host:
    """A host of a `Bed`, which makes it. Its disk is there from the beginning, its processes after `boot`."""

    def __init__(self, name: str, root: Root, cgroup: Path, log: Path, binds: Mapping[Path, str]) -> None:
        self.name = name
        self.root = root
        self.cgroup = cgroup
        self.log = log
        self.addresses: dict[Network, str] = {}
        self._ports: dict[Network, str] = {}
        if root.python_packages is not None:
            binds = {root.python_packages: _HSMD_PACKAGES, **binds}
        cgroup.mkdir()
        self._keeper = start_keeper([
            "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--",
            "bash", str(_KEEPER), str(cgroup), str(root.path), "yes" if root.clean else "no", name,
            *(f"{source}={target}" for source, target in binds.items()),
        ], log)  # fmt: skip

    # --- its power ---

    def plug(self, network: Network, address: str) -> None:
        """Connect it to a network with this address."""
        own = Path("/proc/self/ns/net").readlink()
        wait_until(
            lambda: Path(f"/proc/{self._keeper.pid}/ns/net").readlink() != own, f"{self.name}'s namespaces"
        )
        self._ports[network] = network.plug(self._keeper.pid, f"eth{len(self._ports)}", address)
        self.addresses[network] = address

    def cut(self, network: Network) -> None:
        """Lose all traffic with a network silently."""
        network.set_link(self._ports[network], "down")

    def restore(self, network: Network) -> None:
        """End `cut`."""
        network.set_link(self._ports[network], "up")

    def switch_on(self) -> None:
        """Begin to boot; see `wait`."""
        assert self._keeper.stdin is not None
        self._keeper.stdin.write("boot\n")
        self._keeper.stdin.flush()

    def boot(self) -> None:
        """Boot it; return when it is ready."""
        self.switch_on()
        self.wait()

    def wait(self) -> None:
        """Wait until systemd has started everything. SetupError with its log if it does not."""
        deadline = time.monotonic() + BOOT_S
        state = "no systemd"
        while time.monotonic() < deadline and self._keeper.poll() is None:
            if self.pid is not None:
                state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
                if state in ("running", "degraded"):
                    return
            time.sleep(0.02)
        raise SetupError(f"host {self.name} did not start ({state}): {self.log.read_text()[-2000:]}")

    def reboot(self) -> None:
        """Restart it in good order, with the same disk."""
        before = self.pid
        self.run("systemctl", "reboot", check=False)
        wait_until(lambda: self.pid not in (before, None), f"{self.name} boots again", BOOT_S)
        self.wait()

    def power_off(self) -> None:
        """Stop it in good order; `boot` starts it again, with the same disk."""
        self.run("systemctl", "poweroff", check=False)
        wait_until(lambda: self.pid is None, f"{self.name} stops", BOOT_S)

    def power_cut(self) -> None:
        """Kill all of its processes at once; `boot` starts it again, with the same disk."""
        before = self._init()
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: not os.path.exists(f"/proc/{before}"), f"{self.name} ends")

    def close(self) -> None:
        """End it, with its disk."""
        end(self._keeper)
        remove_cgroup(self.cgroup)

    @property
    def pid(self) -> int | None:
        """Its systemd, as this machine numbers it; None while it does not run."""
        # unshare, the keeper, unshare, PID 1 of the host
        generation = [self._keeper.pid]
        for _ in range(3):
            generation = [child for parent in generation for child in children(parent)]
        for pid in generation:
            with suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                    return pid
        return None

    def _init(self) -> int:
        pid = self.pid
        if pid is None:
            raise SetupError(f"host {self.name} does not run: {self.log.read_text()[-2000:]}")
        return pid

    # --- commands ---

    def prefix(
        self, user: str = "root", *, online: bool = False, variables: Mapping[str, str] | None = None
    ) -> list[str]:
        """What makes a command line run in the host, with a new environment."""
        home = "/root" if user == "root" else f"/home/{user}"
        environment = {"PATH": _PATH, "HOME": home, "USER": user, "LANG": "C.UTF-8"}
        if online:
            environment |= {name: os.environ[name] for name in _PACKAGE_SERVERS if name in os.environ}
        environment |= variables or {}
        namespaces = [
            "--mount",
            "--pid",
            "--uts",
            "--ipc",
            "--cgroup",
            *([] if online else ["--net"]),
            "--root",
            "--wdns=/",
        ]
        words = ["nsenter", "--target", str(self._init()), *namespaces, "env", "-i"]
        words += [f"{name}={value}" for name, value in environment.items()]
        return words if user == "root" else [*words, "runuser", "--user", user, "--"]

    def run(
        self,
        *command: str | Path,
        text: str = "",
        check: bool = True,
        timeout_s: float = 60.0,
        user: str = "root",
        online: bool = False,
        variables: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. AssertionError with its output if it fails, unless `check` is false."""
        words = [*self.prefix(user, online=online, variables=variables), *map(str, command)]
        child = self._popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            out, err = child.communicate(text, timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            out, err = child.communicate()
            raise AssertionError(
                f"{self.name}: not within {timeout_s:g} s: {shlex.join(map(str, command))}\n{out}{err}"
            ) from None
        done = subprocess.CompletedProcess(command, child.returncode, out, err)
        if check:
            assert done.returncode == 0, (
                f"{self.name}: {shlex.join(map(str, command))} ended with {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def sh(self, script: str, **options: object) -> str:
        """Run lines for bash, which stop at the first that fails; return what they print on stdout. Options of `run`."""
        return self.run("bash", "-euo", "pipefail", "-c", script, **options).stdout  # type: ignore[arg-type]

    def start(self, *command: str | Path, log: Path, user: str = "root") -> subprocess.Popen[str]:
        """Start a command beside the test; its output goes to `log` on this machine. It ends with the host."""
        with log.open("ab") as output:
            return self._popen(
                [*self.prefix(user), *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def _popen(self, words: Sequence[str], **streams: object) -> subprocess.Popen[str]:
        return subprocess.Popen(words, text=True, errors="replace", start_new_session=True, **streams)  # type: ignore[call-overload, no-any-return]

    # --- files ---

    def read(self, path: str | Path) -> str:
        """A text file of the host."""
        return self.run("cat", path).stdout

    def write(self, path: str | Path, text: str, mode: str = "644", owner: str = "root:root") -> None:
        """Write a text file of the host, and the directories above it."""
        self.run(
            "bash", "-euc", 'mkdir -p "$(dirname "$1")"; cat >"$1"; chown "$3" "$1"; chmod "$2" "$1"', "write",
            path, mode, owner, text=text,
        )  # fmt: skip

    def exists(self, path: str | Path) -> bool:
        """Whether there is such a file or directory."""
        return self.run("test", "-e", path, check=False).returncode == 0

    def put(self, source: Path, target: str | Path) -> None:
        """Copy a file or directory of this machine to the path `target`, as root's."""
        self.run("mkdir", "-p", Path(target).parent)
        renamed = f"--transform=s,^{re.escape(source.name)},{Path(target).name},"
        pack = ["tar", "--create", "--directory", source.parent, renamed, source.name]
        unpack = [
            *self.prefix(),
            "tar",
            "--extract",
            "--no-same-owner",
            "--directory",
            str(Path(target).parent),
        ]
        with subprocess.Popen(pack, stdout=subprocess.PIPE) as packed:
            done = subprocess.run(
                unpack, stdin=packed.stdout, capture_output=True, text=True, timeout=120, check=False
            )
        assert (packed.returncode, done.returncode) == (0, 0), (
            f"{self.name}: {source} not copied: {done.stderr}"
        )

    def copy(self, other: Host, source: str | Path, target: str | Path, mode: str = "644") -> None:
        """Copy a text file to another host."""
        other.write(target, self.read(source), mode)

    # --- systemd ---

    def active(self, unit: str) -> bool:
        """Whether a unit is active."""
        return self.run("systemctl", "is-active", unit, check=False).stdout.strip() == "active"

    def property(self, unit: str, name: str) -> str:
        """A property of a unit, as MainPID, Result, NRestarts."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).stdout.strip()

    def journal(self, unit: str) -> str:
        """What a unit has logged, systemd's own lines about it included."""
        return self.run("journalctl", "--no-pager", "--output=short-monotonic", f"--unit={unit}").stdout

    def news(self, unit: str) -> str:
        """What a unit has logged since the last call."""
        cursor = f"--cursor-file=/var/lib/misc/hsmd-test-{unit}"
        return self.run("journalctl", "--no-pager", "--quiet", cursor, f"--unit={unit}").stdout

    # --- hsmd ---

    def install_hsmd(self) -> None:
        """Install this source tree as /opt/hsmd, with the command /usr/local/bin/hsmd: for hosts of `roots.machine` and
        `roots.with_hsmd`, in half a second. The documents' own ways, pip and packages, are other tests' subject.
        """
        if self.root.python_packages is not None:
            self.run("python3", "-m", "venv", "--without-pip", "/opt/hsmd")
        packages = self.sh("echo /opt/hsmd/lib/python3*/site-packages").strip()
        if self.root.python_packages is not None:
            self.write(f"{packages}/packages.pth", f"{_HSMD_PACKAGES}\n")
        self.put(REPOSITORY / "hsmd", f"{packages}/hsmd")
        self.put(built_provider(), f"{packages}/hsmd/provider/hsmd.so")
        self.write("/opt/hsmd/bin/hsmd", _HSMD_LAUNCHER, "755")
        self.run("ln", "-sf", "/opt/hsmd/bin/hsmd", "/usr/local/bin/hsmd")


def built_provider() -> Path:
    """The provider's module, as the tests' own environment has it."""
    from hsmd.provider import module_path

    return module_path()


def start_keeper(words: Sequence[str], log: Path) -> subprocess.Popen[str]:
    """Start a process that holds namespaces, and dies with the thread that starts it."""
    with log.open("ab") as output:
        return subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            text=True,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )


def end(keeper: subprocess.Popen[str]) -> None:
    """Kill it, and everything in its namespaces."""
    keeper.kill()
    keeper.communicate()


def remove_cgroup(top: Path, within_s: float = 10.0) -> None:
    """Remove a cgroup and those below it, when their processes have ended."""

    def gone() -> bool:
        for directory, _, _ in os.walk(top, topdown=False):
            with suppress(OSError):
                os.rmdir(directory)
        return not top.exists()

    wait_until(gone, f"{top} is empty", within_s)


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
