"""The site that is measured: a daemon whose token and store hold many keys, in a directory in memory.

Keys are named `key-00000`, `key-00001` and so on. Each has a certificate, which a CA of the site issued, and the client
`front-end` has a grant on each.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsmd.cli.base import profile as profiles
from hsmd.cli.base.connection import connect
from hsmd.cli.base.daemon_toml import Layout
from hsmd.cli.base.errors import CommandError
from hsmd.cli.base.files import PRIVATE, write_new
from hsmd.cli.dev import child_processes, environment
from hsmd.protocol.messages import Status

if TYPE_CHECKING:
    from hsmd.client import Client

WORKERS = 2
"""Besides these there is a spare, as in a daemon with default settings, and the control worker."""
READY_S = 600.0
REQUEST_S = 60.0
"""The longest deadline of a request."""
FILL_S = 1800.0
"""10,000 keys take 45 s of CPU: many times as long on a busy machine or without a file system in memory."""
_MEMORY = Path("/dev/shm")


class Site:
    """Directory, token and store; while `grown` runs, also a daemon with `keys` keys."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.keys = 0
        self.layout = Layout(directory / "hsmd.toml", directory)
        self.log = directory / "log"
        self.agent_started = 0.0
        """When the last agent was started (`time.perf_counter()`)."""
        self.daemon_start_s = 0.0
        """How long the daemon took at its last start until all workers were ready."""
        self.host_key = environment.prepare(self.layout, WORKERS)
        self._profile = profiles.Profile()
        self._children: list[subprocess.Popen[bytes]] = []

    @contextmanager
    def grown(self, keys: int) -> Iterator[None]:
        """Fill token and store up to this number of keys, and run the daemon inside the block."""
        order = {"first": self.keys, "count": keys, "database": str(self.layout.database)}
        self.program(
            "fill", order | {"client": environment.FRONT_END, "token_name": "softhsm"}, seconds=FILL_S
        )
        self.keys = keys
        with ExitStack() as resources:
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, PRIVATE)
            resources.callback(os.close, log)
            self._start(resources, log)
            yield
            self._children.clear()

    def _start(self, resources: ExitStack, log: int) -> None:
        started = time.monotonic()
        address = environment.start_daemon(resources, self.layout, self._children, log)
        self._profile = profiles.Profile(
            address, environment.OPERATOR, self.directory / environment.OPERATOR, (self.host_key,)
        )
        self.profile_file.unlink(missing_ok=True)
        write_new(self.profile_file, profiles.render(self._profile), PRIVATE)
        self.wait_for_workers()
        self.daemon_start_s = time.monotonic() - started

    # --- the daemon ---

    @property
    def profile_file(self) -> Path:
        """The profile of the operator, for commands."""
        return self.directory / profiles.PROFILE_NAME

    def key_name(self, number: int) -> str:
        """The name of a key; numbers run from 0 to `keys` - 1."""
        return f"key-{number:05d}"

    @contextmanager
    def operator(self) -> Iterator[Client]:
        """A connection as operator."""
        with connect(self._profile) as client:
            yield client

    def client_order(self, number: int = 0) -> dict[str, Any]:
        """What a measuring program needs to sign with a key as the client `front-end`."""
        from hsmd.protocol.messages import KeyShow

        host, _, port = self._profile.daemon.rpartition(":")
        with self.operator() as client:
            info = client.control(KeyShow(self.key_name(number)), timeout_s=REQUEST_S)
        return {
            "host": host,
            "port": int(port),
            "host_keys": [self.host_key],
            "user": environment.FRONT_END,
            "identity_file": str(self.directory / environment.FRONT_END),
            "key": info.digest,
            "cka_label": self.key_name(number),
        }

    def wait_for_workers(self) -> None:
        """Wait until all workers are ready. Raises CommandError."""
        with self.operator() as client:
            environment.wait_for_token(client, self._children[0], WORKERS, READY_S)

    def workers(self) -> tuple[list[int], int]:
        """Process ids: of the signing workers with the spare, and of the control worker."""
        with self.operator() as client:
            workers = client.control(Status(), timeout_s=REQUEST_S).tokens[0].workers
        return [worker.pid for worker in workers[:-1]], workers[-1].pid

    def front_pid(self) -> int:
        """Process id of the front."""
        signing, control = self.workers()
        children = Path(f"/proc/{self._children[0].pid}/task/{self._children[0].pid}/children").read_text()
        (front,) = {int(pid) for pid in children.split()} - {*signing, control}
        return front

    @contextmanager
    def agent(self, *, fresh: bool = True) -> Iterator[tuple[Path, int]]:
        """An agent of the client `front-end` inside the block: its socket and process id. It is connected.

        `fresh`: without what an earlier one has stored.
        """
        with ExitStack() as resources:
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, PRIVATE)
            resources.callback(os.close, log)
            for name in ("agent.toml", "agent.sock"):
                (self.directory / name).unlink(missing_ok=True)
            if fresh:
                shutil.rmtree(self.directory / "agent", ignore_errors=True)
            self.agent_started = time.perf_counter()
            children: list[subprocess.Popen[bytes]] = []
            socket = environment.start_agent(resources, self.directory, self._profile, children, log)
            yield Path(socket), children[0].pid

    # --- measuring programs ---

    def program(self, module: str, order: Mapping[str, Any], *, seconds: float) -> Any:
        """Run a program of this package to its end; return the JSON document that it prints."""
        with self.started(module, order) as child:
            printed, _ = child.communicate(timeout=seconds)
        if child.returncode != 0:
            raise CommandError(f"the measuring program {module} failed", "see its output above")
        return json.loads(printed or b"null")

    @contextmanager
    def started(self, module: str, order: Mapping[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
        """Start a program of this package, which ends with the block; it gets `order` as its first line of input."""
        token = self.layout.state / "softhsm"
        child = subprocess.Popen(
            [sys.executable, "-m", f"hsmd.cli.bench.scale.{module}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "SOFTHSM2_CONF": str(token / "softhsm2.conf")},
        )
        assert child.stdin is not None
        try:
            child.stdin.write(json.dumps({"pin_file": str(token / "pin"), **order}).encode() + b"\n")
            child.stdin.flush()
            yield child
        finally:
            if child.poll() is None:
                child.kill()
            child.communicate()


@contextmanager
def growing_site(parent: Path | None) -> Iterator[Site]:
    """A site without keys, removed at the end of the block. `parent`: a directory in memory, if not given."""
    parent = parent or (_MEMORY if _MEMORY.is_dir() else None)
    directory = Path(tempfile.mkdtemp(prefix="hsmd-scale-", dir=parent))
    try:
        with child_processes.terminated_by_signals():
            yield Site(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
