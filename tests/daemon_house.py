"""A real daemon for tests: launcher, front and workers on a SoftHSM token, and callers that keep to the protocol or do not."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncssh
from asyncssh.packet import Boolean, String, UInt32, UInt64
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from hsmd.client import Connection, Endpoint
from hsmd.daemon.store import CredentialRecord, Store
from hsmd.errors import HsmdError
from hsmd.pkcs11.softhsm import SoftHsmToken, make_token
from hsmd.protocol import messages
from hsmd.protocol.frames import (
    MAX_ANSWER_LENGTH,
    Capability,
    FrameDecoder,
    Kind,
    decode_error,
    encode_control_request,
    encode_hello,
    encode_key_operation,
)
from hsmd.protocol.messages import Request, encode_request
from hsmd.protocol.roles import Role
from hsmd.purposes import Purpose
from hsmd.system.ssh_profile import CIPHERS, KEX_ALGORITHMS, SUBSYSTEM
from hsmd.transparency import discontinuity
from hsmd.transparency.lines import format_time

ROOT = Path(__file__).parents[1]
READY_S = 20.0
OPERATOR, AUDITOR, WEB, MAIL = "operator", "auditor", "web-1", "mail-1"
ROLES = {OPERATOR: Role.OPERATOR, AUDITOR: Role.AUDITOR, WEB: Role.FRONT_END, MAIL: Role.FRONT_END}
P256 = 0x0403
TLS13 = b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + b"\x11" * 32


def tls13(number: int) -> bytes:
    """What a TLS 1.3 server would have signed, different for each number."""
    return TLS13[:-32] + number.to_bytes(32, "big")


def wait_until(condition: Callable[[], object], within_s: float = 10.0, what: str = "") -> None:
    """Poll until `condition()` is true; fail if it does not become so."""
    ends = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < ends, f"not within {within_s} s: {what or condition}"
        time.sleep(0.005)


@dataclass
class House:
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
    """What stands between the workers and the token: `FaultModule.before`."""
    token_settings: dict[str, Any] = field(default_factory=dict)
    """More for the [[token]] section."""
    environment: dict[str, str] = field(default_factory=dict)
    """More for the processes' environment."""
    store_url: str = ""
    """SQLite in the directory, if not given."""

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.config = self.directory / "hsmd.toml"
        self.log_path = self.directory / "log"
        self.audit_path = self.directory / "audit" / "audit.jsonl"
        self.token = self.before(make_token(self.directory / "softhsm"))
        self.pin_file = self.token.pin_file
        self.keys = {name: asyncssh.generate_private_key("ssh-ed25519") for name in ROLES}
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        self._write_key("host_key", self.host_key)
        for name, key in self.keys.items():
            self._write_key(name, key)
        self.store_url = self.store_url or f"sqlite:///{self.directory / 'store.sqlite'}"
        store = Store(self.store_url)
        store.migrate()
        for name, role in ROLES.items():
            store.add_client(name, role, datetime.now(UTC), credential(self.keys[name]))
        store.close()
        self.host_certificate = ""
        self.write()
        self.process: subprocess.Popen[bytes] | None = None
        self.notice: dict[str, Any] = {}

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
name = "house"
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
        )

    # --- life ---

    def start(self) -> House:
        """Start, and wait until it takes connections and all workers are ready."""
        self.begin()
        self.wait_for_workers()
        return self

    def begin(self) -> None:
        """Start, and wait until it takes connections."""
        reader, writer = os.pipe()
        code = (
            "import sys, os, json\nfrom pathlib import Path\nfrom hsmd.daemon.launcher.app import serve\n"
            f"def ready(n): os.write({writer}, json.dumps(n).encode()); os.close({writer})\n"
            f"sys.exit(serve(Path({str(self.config)!r}), ready=ready))"
        )
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [self.python, "-c", code],
                cwd=ROOT,
                stderr=log,
                stdout=log,
                stdin=subprocess.DEVNULL,
                pass_fds=[writer],
                start_new_session=True,
                env={**os.environ, **self.environment},
            )
        os.close(writer)
        os.set_blocking(reader, False)
        with open(reader, "rb") as pipe:
            received = bytearray()

            def ended() -> bool:
                received.extend(pipe.read() or b"")
                return received.endswith(b"}") or self.process.poll() is not None  # type: ignore[union-attr]

            wait_until(ended, READY_S, "the daemon is ready")
        assert received, self.log_path.read_text()
        self.notice = json.loads(received)

    def wait_for_workers(self) -> None:
        """Until every worker of the newest generation is ready."""

        def ready() -> bool:
            status = self.status()
            states = [worker.state for worker in status.tokens[0].workers]
            return len(states) == self.workers + 1 + self.spare and set(states) <= {"ready", "spare"}

        wait_until(ready, READY_S, "all workers are ready")

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        self.process.terminate()
        try:
            return self.process.wait(20)
        finally:
            self.end()

    def end(self) -> None:
        """Whatever state it is in: nothing is left."""
        if self.process is None:
            return
        left = self.pids()
        self.process.kill()
        self.process.wait()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(alive(pid) for pid in left), 10, "all processes have ended")
        self.process = None

    def reload(self) -> str:
        """SIGHUP; returns what the front, or the launcher, logs about it: done or refused."""
        before = len(self.logged("reload.done")) + len(self.logged("reload.refused"))
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)
        wait_until(
            lambda: len(self.logged("reload.done")) + len(self.logged("reload.refused")) > before,
            10,
            "a reload",
        )
        last = [line for line in self.log() if line["event"] in ("reload.done", "reload.refused")][-1]
        return str(last["event"]).removeprefix("reload.")

    # --- processes ---

    def pids(self) -> list[int]:
        """Launcher's children: front and workers."""
        assert self.process is not None
        pid = self.process.pid
        with suppress(OSError):
            return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return []

    @property
    def front_pid(self) -> int:
        return self._pids_of(b"hsmd.daemon.front.app")[0]

    def worker_pids(self) -> list[int]:
        """All workers', the control worker's among them."""
        return self._pids_of(b"hsmd.daemon.worker.main")

    def signing_pids(self) -> list[int]:
        """Those of the workers that use keys: the control worker is the last one."""
        return [worker.pid for worker in self.status().tokens[0].workers[:-1]]

    def _pids_of(self, module: bytes) -> list[int]:
        found = []
        for pid in self.pids():
            with suppress(OSError):
                if module in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    found.append(pid)
        return found

    def front_rss(self) -> int:
        """Resident bytes of the front."""
        return int(Path(f"/proc/{self.front_pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    # --- what it wrote ---

    def log(self) -> list[dict[str, Any]]:
        lines = self.log_path.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.log() if line["event"] == event]

    def audit(self, event: str = "") -> list[dict[str, Any]]:
        records = [json.loads(line) for line in self.audit_path.read_text().splitlines()]
        return [record for record in records if not event or record["event"] == event]

    # --- callers ---

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
        """One control request over a connection of its own."""

        async def ask() -> Any:
            async with self.connection(client) as connection:
                return await connection.control(request, timeout_s=timeout_s)

        return run_aside(ask)

    def declare_discontinuity(self, reason: str) -> str:
        """What `hsmd audit discontinuity` does; the note."""
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
        """Generate a key and grant it; its digest."""
        wanted = list(purposes) or ["tls-server"]

        async def make() -> bytes:
            async with self.connection(OPERATOR) as operator:
                info = await operator.control(messages.KeyGenerate(name, key_type, wanted), timeout_s=20)
                for client in grant_to:
                    await operator.control(messages.GrantAdd(client, name, wanted), timeout_s=10)
                return bytes.fromhex(info.digest)

        return run_aside(make)


def run_aside(make: Callable[[], Any]) -> Any:
    """The result of a coroutine, from a thread of its own: works inside and outside of a running loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(make())).result()


@contextmanager
def house(directory: Path, **options: Any) -> Iterator[House]:
    """A running daemon; everything of it is gone afterwards."""
    built = House(directory, **options)
    try:
        yield built.start()
    finally:
        built.end()


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def credential(key: asyncssh.SSHKey) -> CredentialRecord:
    return CredentialRecord(key.get_fingerprint(), public_line(key))


def public_line(key: asyncssh.SSHKey) -> str:
    return " ".join(key.export_public_key("openssh").decode().split()[:2])


# --- a caller that writes frames by hand ---


class Wire(asyncssh.SSHClientSession[bytes]):
    """A channel with the subsystem; frames in `frames`, in the order they came."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, int, bytes]] = []
        self.raw = bytearray()
        self.closed = asyncio.Event()
        self._decoder = FrameDecoder(MAX_ANSWER_LENGTH)
        self._came = asyncio.Event()

    def connection_made(self, chan: Any) -> None:
        self.channel = chan
        self.write = chan.write

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self.raw += data
        self.frames += self._decoder.feed(data)
        self._came.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()
        self._came.set()

    def hello(self, *more: bytes) -> None:
        self.write(encode_hello(Capability.CONTROL | Capability.EVENTS) + b"".join(more))

    async def answer(self, request_id: int, within_s: float = 10.0) -> tuple[int, bytes]:
        """(kind, body) of the answer to a request; id 0 for an error about the channel."""
        async with asyncio.timeout(within_s):
            while True:
                for kind, found, body in self.frames:
                    if found == request_id and kind in (
                        Kind.RESULT,
                        Kind.ERROR,
                        Kind.CONTROL_RESULT,
                        Kind.PONG,
                    ):
                        return kind, body
                assert not self.closed.is_set(), f"the channel was closed; frames: {self.frames}"
                self._came.clear()
                await self._came.wait()

    async def use(
        self, request_id: int, key: bytes, data: bytes = TLS13, **changes: int
    ) -> tuple[int, bytes]:
        self.write(operation(request_id, key, data, **changes))
        return await self.answer(request_id)

    async def error(self, request_id: int) -> HsmdError:
        kind, body = await self.answer(request_id)
        assert kind == Kind.ERROR, (kind, body)
        return decode_error(body)

    async def control(self, request_id: int, document: bytes | Request) -> tuple[int, bytes]:
        if not isinstance(document, bytes):
            document = encode_request(document)
        self.write(encode_control_request(request_id, 10_000, document))
        return await self.answer(request_id)

    async def error_of_control(self, request_id: int, request: bytes | Request) -> HsmdError:
        kind, body = await self.control(request_id, request)
        assert kind == Kind.ERROR, (kind, body)
        return decode_error(body)


def operation(
    request_id: int,
    key: bytes,
    data: bytes = TLS13,
    *,
    purpose: int = Purpose.TLS13_SERVER,
    scheme: int = P256,
    deadline_ms: int = 5_000,
) -> bytes:
    return encode_key_operation(request_id, deadline_ms, purpose, scheme, key, data)


async def ssh(house: House, client: str, key: Any = None, **options: Any) -> asyncssh.SSHClientConnection:
    """A plain asyncssh connection; `key` is a key or a (key, certificate) pair."""
    host, port = house.address
    settings: dict[str, Any] = {
        "known_hosts": ([asyncssh.import_public_key(house.notice["host_key"])], [], []),
        "username": client, "client_keys": [key or house.keys[client]], "config": [], "agent_path": None,
        "kex_algs": KEX_ALGORITHMS, "encryption_algs": CIPHERS, "compression_algs": ["none"],
        "x509_trusted_certs": None, "login_timeout": 10,
    }  # fmt: skip
    return await asyncssh.connect(host, port, **(settings | options))


async def wire(connection: asyncssh.SSHClientConnection, *, hello: bool = True, **options: Any) -> Wire:
    """A channel with the subsystem on an asyncssh connection."""
    made = Wire()
    settings: dict[str, Any] = {"subsystem": SUBSYSTEM, "encoding": None}
    await connection.create_session(lambda: made, **(settings | options))
    if hello:
        made.hello()
    return made


async def has_no_more(connection: asyncssh.SSHClientConnection, channel: Wire, key: bytes) -> None:
    """Whose first use was answered gets no further answer, however often it asks, and its connection is closed."""
    refused = False
    for number in range(2, 1_000):
        try:
            channel.write(operation(number, key))
        except OSError:
            refused = True
            break
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await connection.wait_closed()
    assert refused, "the channel was open all the time"
    assert not [frame for frame in channel.frames if frame[0] == Kind.RESULT and frame[1] > 1]


# --- user certificates, good and bad ---

USER = 1


def certificate(
    ca: asyncssh.SSHKey,
    key: asyncssh.SSHKey,
    principals: Sequence[str],
    *,
    valid_s: tuple[float, float] = (-60, 600),
    critical: Sequence[tuple[str, bytes]] = (),
    serial: int = 7,
    kind: int = USER,
    key_id: bytes = b"id",
    signed_with: bytes = b"ssh-ed25519",
) -> tuple[bytes, bytes]:
    """(algorithm, blob) of an OpenSSH Ed25519 certificate with exactly these members (PROTOCOL.certkeys)."""
    algorithm = b"ssh-ed25519-cert-v01@openssh.com"
    now = time.time()
    public = key.public_data[-32:]
    blob = (
        String(algorithm)
        + String(os.urandom(32))
        + String(public)
        + UInt64(serial)
        + UInt32(kind)
        + String(key_id)
        + String(b"".join(String(name) for name in principals))
        + UInt64(int(now + valid_s[0]))
        + UInt64(int(now + valid_s[1]))
        + String(b"".join(String(name) + String(value) for name, value in critical))
        + String(b"")
        + String(b"")
        + String(ca.public_data)
    )
    return algorithm, blob + String(ca.sign(blob, signed_with))


# --- authentication by hand ---

MSG_USERAUTH_REQUEST, MSG_USERAUTH_FAILURE, MSG_USERAUTH_SUCCESS, MSG_USERAUTH_PK_OK = 50, 51, 52, 60


class Stranger(asyncssh.SSHClient):
    """An SSH connection on which the test sends each authentication request itself."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.replies: asyncio.Queue[int] = asyncio.Queue()
        self.lost = asyncio.Event()

    def connection_made(self, conn: Any) -> None:
        self.conn = conn

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        self.replies.put_nowait(0)

    async def public_key_auth_requested(self) -> None:
        self._take_over()
        self._asked.set()
        await self._never

    @classmethod
    async def connect(cls, house: House) -> Stranger:
        made: list[Stranger] = []

        def factory() -> Stranger:
            made.append(cls())
            return made[-1]

        task = asyncio.ensure_future(
            ssh(
                house,
                "nobody",
                house.keys[WEB],
                client_factory=factory,
                preferred_auth="publickey",
                client_keys=None,
            )
        )
        async with asyncio.timeout(10):
            while not made or not made[0]._asked.is_set():
                assert not task.done(), task.exception()
                await asyncio.sleep(0.005)
        made[0].task = task  # type: ignore[attr-defined]
        return made[0]

    def _take_over(self) -> None:
        """Have the replies come here; asyncssh's own state machine sees only a success."""
        conn, inner = self.conn, self.conn.process_packet

        def process(kind: int, number: int, packet: Any) -> Any:
            self.replies.put_nowait(kind)
            return inner(kind, number, packet) if kind == MSG_USERAUTH_SUCCESS else True

        def to_connection(kind: int, number: int, packet: Any) -> Any:
            return process(kind, number, packet)

        original = conn.process_packet

        def dispatch(kind: int, number: int, packet: Any) -> Any:
            if kind in (MSG_USERAUTH_FAILURE, MSG_USERAUTH_SUCCESS):
                return process(kind, number, packet)
            return original(kind, number, packet)

        conn.process_packet = dispatch
        if conn._auth is not None:
            conn._auth.process_packet = to_connection

    def send(self, user: str, method: str, *fields: bytes) -> None:
        self.conn.send_packet(
            MSG_USERAUTH_REQUEST, String(user), String("ssh-connection"), String(method), *fields
        )

    def query(self, user: str, key: asyncssh.SSHKey) -> None:
        """Would this key do?"""
        self.send(user, "publickey", Boolean(False), String(key.algorithm), String(key.public_data))

    def sign(
        self,
        user: str,
        key: asyncssh.SSHKey,
        *,
        shown: tuple[bytes, bytes] | None = None,
        signed_user: str = "",
        signed_with: bytes = b"ssh-ed25519",
    ) -> None:
        """Log in with a signature of `key`, showing another key or a certificate if told so."""
        algorithm, blob = shown or (key.algorithm, key.public_data)
        fields = (Boolean(True), String(algorithm), String(blob))
        request = (
            bytes([MSG_USERAUTH_REQUEST])
            + String(signed_user or user)
            + String("ssh-connection")
            + String("publickey")
            + b"".join(fields)
        )
        signature = key.sign(String(self.conn._session_id) + request, signed_with)
        self.send(user, "publickey", *fields, String(signature))

    async def reply(self, within_s: float = 5.0) -> int:
        """The kind of the next reply; 0 when the connection is lost."""
        async with asyncio.timeout(within_s):
            return await self.replies.get()

    async def whoami(self) -> messages.Identity | None:
        """Who the daemon takes us for, None if it has dropped us."""
        try:
            async with asyncio.timeout(5):
                channel = await wire(self.conn)
                kind, body = await channel.control(1, messages.WhoAmI())
        except (asyncssh.Error, OSError, AssertionError):
            return None
        assert kind == Kind.CONTROL_RESULT
        return messages.decode_result(body, messages.Identity)

    def close(self) -> None:
        self.conn.abort()
        self.task.cancel()  # type: ignore[attr-defined]


def vectors(name: str) -> Any:
    """A JSON file of tests/vectors."""
    return json.loads((ROOT / "tests" / "vectors" / name).read_text())


def unbase64(text: str) -> bytes:
    return base64.b64decode(text)
