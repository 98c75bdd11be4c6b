"""A temporary hsmd daemon for the tests of other programs: a context manager, and fixtures for pytest.

    def test_handshake(hsmd_key, hsmd_openssl):
        server = subprocess.Popen(
            ["nginx", ...], env={**os.environ, "OPENSSL_CONF": str(hsmd_openssl)})   # loads hsmd_key.chain and hsmd_key.reference

Everything is real: a SoftHSM token, a daemon on a free port, an agent. Nothing is shared: each process gets a daemon of its
own, so test runs and pytest-xdist workers can run in parallel. pytest loads this module at every start where hsmd is
installed; it therefore imports nothing heavy.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from hsmd.client import Client

__all__ = ["Daemon", "Key"]

DEFAULT_KEYS = ("www:p-256:tls-server", "rsa:rsa-2048:tls-server")
READY_S = 60.0
END_S = 20.0


@dataclass(frozen=True, slots=True)
class Key:
    """A key in the temporary token. `reference` and `chain` are the files a TLS server loads (None without a certificate)."""

    name: str
    key_type: str
    digest: bytes
    reference: Path
    chain: Path | None


class Daemon:
    """A temporary daemon, with an agent unless `agent` is false; stopped and removed when the block ends.

    `keys` are texts like `www:p-256:tls13-server` (name, type, purposes). After entering: `address`, `host_key`, `directory`,
    `keys` by name, `operator_profile`, `agent_socket` and `openssl_configuration` (None without agent or provider module).
    """

    address: str
    host_key: str
    front_end: str
    front_end_identity: Path
    directory: Path
    operator_profile: Path
    agent_socket: Path | None
    openssl_configuration: Path | None
    keys: dict[str, Key]

    def __init__(
        self,
        keys: Sequence[str] = DEFAULT_KEYS,
        *,
        workers: int = 1,
        agent: bool = True,
        timeout_s: float = READY_S,
    ) -> None:
        self._arguments = [word for key in keys for word in ("--key", key)] + (["--agent"] if agent else [])
        self._arguments += ["--workers", str(workers)]
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._ready: dict[str, Any] = {}

    def __enter__(self) -> Daemon:
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hsmd.cli", "dev", "--json-ready", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        try:
            self._set_attributes(json.loads(self._first_line(self._process)))
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def pid(self) -> int:
        """The process that started all others."""
        assert self._process is not None
        return self._process.pid

    def command(self, *arguments: str) -> Any:
        """Run an `hsmd` command as the daemon's operator and return its JSON document. Raises AssertionError if it fails."""
        line = [
            sys.executable,
            "-m",
            "hsmd.cli",
            *arguments,
            "--profile",
            str(self.operator_profile),
            "--json",
        ]
        done = subprocess.run(line, capture_output=True, text=True, timeout=self._timeout_s, check=False)
        assert done.returncode == 0, f"hsmd {' '.join(arguments)} failed: {done.stderr or done.stdout}"
        return json.loads(done.stdout)

    def client(self) -> Client:
        """A connected synchronous client: a front end with a grant on every key. Close it, or use `with`."""
        from hsmd.client import Client, Endpoint, parse_address

        host, port = parse_address(self.address)
        endpoint = Endpoint(host, port, (self.host_key,), self.front_end, self.front_end_identity)
        return Client.connect(endpoint)

    def _first_line(self, process: subprocess.Popen[bytes]) -> bytes:
        assert process.stdout is not None
        ends = time.monotonic() + self._timeout_s
        line = b""
        while not line.endswith(b"\n"):
            readable, _, _ = select.select([process.stdout], [], [], max(0.0, ends - time.monotonic()))
            chunk = os.read(process.stdout.fileno(), 65_536) if readable else b""
            if not chunk:
                raise RuntimeError(f"hsmd dev did not become ready: {self._error_output()}")
            line += chunk
        return line

    def _error_output(self) -> str:
        assert self._errors is not None
        self._errors.seek(0)
        return (
            self._errors.read().decode(errors="replace").strip()
            or f"no output within {self._timeout_s:.0f} s"
        )

    def _set_attributes(self, ready: dict[str, Any]) -> None:
        self._ready = ready
        self.address, self.host_key = ready["address"], ready["host_key"]
        self.front_end, self.front_end_identity = ready["front_end"], Path(ready["front_end_identity"])
        self.directory, self.operator_profile = Path(ready["directory"]), Path(ready["profile"])
        self.agent_socket = _path(ready["agent_socket"])
        self.openssl_configuration = _path(ready["openssl_configuration"])
        self.keys = {key["name"]: _key(key) for key in ready["keys"]}

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None or process.stdin is None or process.stdout is None:
            return
        with suppress(BrokenPipeError):
            process.stdin.close()  # makes `hsmd dev` stop
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        if self._errors is not None:
            self._errors.close()


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _key(ready: dict[str, str]) -> Key:
    digest = bytes.fromhex(ready["digest"])
    return Key(ready["name"], ready["key_type"], digest, Path(ready["reference"]), _path(ready["chain"]))


# --- pytest ---


@pytest.fixture(scope="session")
def hsmd_keys() -> Sequence[str]:
    """The keys that the session's daemon starts with; override it to have others. The first is `hsmd_key`."""
    return DEFAULT_KEYS


@pytest.fixture(scope="session")
def hsmd_daemon(hsmd_keys: Sequence[str]) -> Iterator[Daemon]:
    """A daemon with an agent for the whole session (with pytest-xdist: for each worker)."""
    with Daemon(hsmd_keys) as daemon:
        yield daemon


@pytest.fixture(scope="session")
def hsmd_key(hsmd_daemon: Daemon) -> Key:
    """The first key: files for a TLS server, digest for other clients."""
    return next(iter(hsmd_daemon.keys.values()))


@pytest.fixture(scope="session")
def hsmd_openssl(hsmd_daemon: Daemon) -> Path:
    """An OpenSSL configuration that loads the provider and reaches the agent: the value for OPENSSL_CONF of a TLS server."""
    if hsmd_daemon.openssl_configuration is None:
        pytest.fail("this installation of hsmd has no OpenSSL provider; install it from a wheel")
    return hsmd_daemon.openssl_configuration


@pytest.fixture
def hsmd_client(hsmd_daemon: Daemon) -> Iterator[Client]:
    """A connected client with a grant on every key."""
    with hsmd_daemon.client() as client:
        yield client
