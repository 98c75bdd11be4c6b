"""A real daemon for tests: launcher, front and workers on a SoftHSM token, and connections to it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncssh
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from hsmd.client import Connection, Endpoint
from hsmd.daemon.store import CredentialRecord, Store
from hsmd.pkcs11.softhsm import SoftHsmToken, make_token
from hsmd.protocol import messages
from hsmd.protocol.messages import Request
from hsmd.protocol.roles import Role
from hsmd.transparency import discontinuity
from hsmd.transparency.lines import format_time
from tests.support.daemon_process import DaemonProcess, alive
from tests.support.polling import wait_until

ROOT = Path(__file__).parents[2]
READY_S = 20.0
OPERATOR, AUDITOR, WEB, MAIL = "operator", "auditor", "web-1", "mail-1"
ROLES = {OPERATOR: Role.OPERATOR, AUDITOR: Role.AUDITOR, WEB: Role.FRONT_END, MAIL: Role.FRONT_END}


@dataclass
class Daemon:
    """A daemon's directory and, between `start` and `stop`, its processes."""

    directory: Path
    workers: int = 1
    limits: dict[str, Any] = field(default_factory=dict)
    users: tuple[str, str] = ("", "")
    stall_ms: int = 2_000
    spare: bool = False
    sync: str = "group"
    checkpoint_s: int = 3600
    addresses: list[str] = field(default_factory=lambda: ["127.0.0.1:0"])
    python: str = sys.executable
    metrics: str = ""
    before: Callable[[SoftHsmToken], SoftHsmToken] = field(default=lambda token: token)
    """Wraps the token for the workers: `FaultModule.before`."""
    token_settings: dict[str, Any] = field(default_factory=dict)
    """More for the [[token]] section."""
    more_tokens: dict[str, SoftHsmToken] = field(default_factory=dict)
    """Further tokens, by name."""
    environment: dict[str, str] = field(default_factory=dict)
    """More for the processes' environment."""
    store_url: str = ""
    """SQLite in the directory, if not given."""
    name: str = "test"
    beside: Daemon | None = None
    """Another daemon of the same fleet, whose token, store, host key and clients this one shares; give it another name."""

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.config = self.directory / "hsmd.toml"
        self.log_path = self.directory / "log"
        self.audit_path = self.directory / "audit" / "audit.jsonl"
        if self.beside is None:
            self.token = self.before(make_token(self.directory / "softhsm"))
            self.keys = {name: asyncssh.generate_private_key("ssh-ed25519") for name in ROLES}
            self.host_key = asyncssh.generate_private_key("ssh-ed25519")
            self.store_url = self.store_url or f"sqlite:///{self.directory / 'store.sqlite'}"
        else:
            self.token, self.keys, self.host_key = (
                self.beside.token,
                self.beside.keys,
                self.beside.host_key,
            )
            self.store_url = self.beside.store_url
        self.pin_file = self.token.pin_file
        self._write_key("host_key", self.host_key)
        for name, key in self.keys.items():
            self._write_key(name, key)
        if self.beside is None:
            self._make_store()
        self.host_certificate = ""
        self.write()
        self.process: subprocess.Popen[bytes] | None = None
        self.notice: dict[str, Any] = {}

    def _make_store(self) -> None:
        store = Store(self.store_url)
        store.migrate()
        with store.write() as tx:
            for name, role in ROLES.items():
                tx.clients.add(name, frozenset({role}), datetime.now(UTC), credential(self.keys[name]))
        store.close()

    def _write_key(self, name: str, key: asyncssh.SSHKey) -> None:
        path = self.directory / name
        path.touch(mode=0o600)
        key.write_private_key(path)

    def write(self, *more: str) -> None:
        """Write hsmd.toml; `more` are lines for the end of [listen]."""
        token = self.token
        limits = "\n".join(f"{name} = {value}" for name, value in self.limits.items())
        environment = ", ".join(f"{name} = {json.dumps(value)}" for name, value in token.environment.items())
        settings = "\n".join(f"{name} = {json.dumps(value)}" for name, value in self.token_settings.items())
        certificate = f'host_certificate = "{self.host_certificate}"' if self.host_certificate else ""
        self.config.write_text(
            f"""\
name = "{self.name}"
[listen]
addresses = {json.dumps(self.addresses)}
host_key = "host_key"
{certificate}
{os.linesep.join(more)}
[store]
url = "{self.store_url}"
[audit]
directory = "audit"
sync = "{self.sync}"
checkpoint_s = {self.checkpoint_s}
[limits]
{limits}
[users]
front = "{self.users[0]}"
workers = "{self.users[1]}"
[metrics]
address = "{self.metrics}"
[[token]]
name = "main"
module = "{token.module}"
label = "{token.label}"
pin_file = "{self.pin_file}"
environment = {{ {environment} }}
workers = {self.workers}
stall_ms = {self.stall_ms}
spare = {json.dumps(self.spare)}
{settings}
"""
            + "".join(
                f"""\
[[token]]
name = "{name}"
module = "{other.module}"
label = "{other.label}"
pin_file = "{other.pin_file}"
environment = {{ {", ".join(f"{key} = {json.dumps(value)}" for key, value in other.environment.items())} }}
workers = 1
"""
                for name, other in self.more_tokens.items()
            )
        )

    # --- start and stop ---

    def start(self) -> Daemon:
        """Start, and wait until it accepts connections and all workers are ready."""
        self.begin()
        self.wait_for_workers()
        return self

    def begin(self) -> None:
        """Start, and wait until it accepts connections."""
        self._running = DaemonProcess(
            self.config, self.log_path, python=self.python, variables=self.environment
        )
        self.process, self.notice = self._running.child, self._running.notice

    def wait_for_workers(self) -> None:
        """Wait until every worker of the newest generation is ready."""

        def ready() -> bool:
            status = self.status()
            (main,) = (token for token in status.tokens if token.name == "main")
            states = [worker.state for worker in main.workers]
            return len(states) == self.workers + 1 + self.spare and set(states) <= {"ready", "spare"}

        wait_until(ready, "all workers are ready", READY_S)

    def stop(self) -> int:
        """Send SIGTERM; return the exit status."""
        assert self.process is not None
        self.process.terminate()
        try:
            return self.process.wait(20)
        finally:
            self.end()

    def end(self) -> None:
        """End all its processes, in whatever state they are."""
        if self.process is None:
            return
        left = self.pids()
        self.process.kill()
        self.process.wait()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(alive(pid) for pid in left), "all processes have ended", 10)
        self.process = None

    def reload(self) -> str:
        """Send SIGHUP; return the result that front or launcher log: done or refused."""
        before = len(self.logged("reload.done")) + len(self.logged("reload.refused"))
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)
        wait_until(
            lambda: len(self.logged("reload.done")) + len(self.logged("reload.refused")) > before,
            "a reload",
            10,
        )
        last = [line for line in self.log() if line["event"] in ("reload.done", "reload.refused")][-1]
        return str(last["event"]).removeprefix("reload.")

    # --- processes ---

    def pids(self) -> list[int]:
        """The launcher's children: front and workers."""
        return self._running.children()

    @property
    def front_pid(self) -> int:
        return self._running.fronts()[0]

    def worker_pids(self) -> list[int]:
        """All workers, including the control worker."""
        return self._running.workers()

    def signing_pids(self) -> list[int]:
        """The workers that use keys, without the control worker, which is the last one."""
        return [worker.pid for worker in self.status().tokens[0].workers[:-1]]

    def front_rss(self) -> int:
        """Resident memory of the front, in bytes."""
        return int(Path(f"/proc/{self.front_pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    # --- its logs ---

    def log(self) -> list[dict[str, Any]]:
        lines = self.log_path.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.log() if line["event"] == event]

    def audit(self, event: str = "") -> list[dict[str, Any]]:
        records = [json.loads(line) for line in self.audit_path.read_text().splitlines()]
        return [record for record in records if not event or record["event"] == event]

    # --- connections ---

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.notice["addresses"][0].rpartition(":")
        return host, int(port)

    def endpoint(self, client: str, **changes: Any) -> Endpoint:
        host, port = self.address
        values: dict[str, Any] = {
            "host": host, "port": port, "host_keys": (self.notice["host_key"],), "user": client,
            "identity_file": self.directory / client,
        }  # fmt: skip
        return Endpoint(**(values | changes))

    def connection(self, client: str) -> Connection:
        return Connection(self.endpoint(client))

    def ask(self, request: Request, client: str = OPERATOR, timeout_s: float = 15.0) -> Any:
        """Make one control request over a new connection."""

        async def ask() -> Any:
            async with self.connection(client) as connection:
                return await connection.control(request, timeout_s=timeout_s)

        return run_aside(ask)

    def declare_discontinuity(self, reason: str) -> str:
        """Do what `hsmd audit discontinuity` does; return the signed note."""
        standing: messages.AuditStanding = self.ask(messages.AuditStand())
        old = None
        if standing.remembered_size >= 0:
            old = discontinuity.State(standing.remembered_size, standing.remembered_root)
        declared = discontinuity.Discontinuity(
            standing.origin,
            old,
            discontinuity.State(standing.size, standing.root),
            standing.verifier_key,
            format_time(datetime.now(UTC)),
            reason,
        )
        private = load_ssh_private_key((self.directory / OPERATOR).read_bytes(), None)
        assert isinstance(private, Ed25519PrivateKey)
        note = discontinuity.sign(declared, private).render()
        self.ask(messages.AuditDiscontinuity(note=note))
        return note

    def status(self) -> messages.DaemonStatus:
        status: messages.DaemonStatus = self.ask(messages.Status())
        return status

    def add_key(
        self, name: str, key_type: str = "p-256", *purposes: str, grant_to: Iterable[str] = (WEB,)
    ) -> bytes:
        """Generate a key and grant it; return its digest."""
        wanted = list(purposes) or ["tls-server"]

        async def make() -> bytes:
            async with self.connection(OPERATOR) as operator:
                info = await operator.control(messages.KeyGenerate(name, key_type, wanted), timeout_s=20)
                for client in grant_to:
                    await operator.control(messages.GrantAdd(client, name, wanted), timeout_s=10)
                return bytes.fromhex(info.digest)

        return run_aside(make)


def run_aside(make: Callable[[], Any]) -> Any:
    """Run a coroutine in a separate thread, so that it works inside and outside of a running loop; return its result."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(make())).result()


@contextmanager
def running_daemon(directory: Path, **options: Any) -> Iterator[Daemon]:
    """A running daemon, all of whose processes are ended afterwards."""
    built = Daemon(directory, **options)
    try:
        yield built.start()
    finally:
        built.end()


def credential(key: asyncssh.SSHKey) -> CredentialRecord:
    return CredentialRecord(key.get_fingerprint(), public_line(key))


def public_line(key: asyncssh.SSHKey) -> str:
    return " ".join(key.export_public_key("openssh").decode().split()[:2])
