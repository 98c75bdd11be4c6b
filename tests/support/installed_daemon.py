"""A real daemon on a separate SoftHSM token, set up by `hsmd init` and run by `hsmd serve`."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hsmd.cli.base import profile as profiles
from hsmd.client import Client, Endpoint, parse_address
from hsmd.errors import HsmdError
from hsmd.protocol.messages import Request, Status
from tests.support.daemon_process import DaemonProcess
from tests.support.network import Network
from tests.support.polling import wait_until
from tests.support.processes import hsmd, program, run

OPERATOR = "operator"
READY_S = 30.0
ASK_S = 30.0


@dataclass(frozen=True, slots=True)
class Use:
    """An attempt in the audit log with its outcome; `result` is empty until there is one."""

    index: int
    client: str
    key_name: str
    purpose: str
    scheme: str
    asked: str
    result: str
    answer: str


class Daemon:
    """A daemon: token, store, audit log, and the processes while it runs."""

    def __init__(self, directory: Path, network: Network) -> None:
        program("softhsm2-util")
        self.directory = directory
        self.network = network
        self.config = directory / "hsmd.toml"
        self.profile = directory / "operator.toml"
        self._process: DaemonProcess | None = None
        self._client: Client | None = None
        made = run(
            hsmd(
                "init",
                "--softhsm",
                "--config",
                self.config,
                "--listen",
                network.listen,
                "--operator",
                OPERATOR,
                "--profile",
                self.profile,
                "--json",
            )
        )
        assert made.returncode == 0, made.stderr
        self.host_key: str = json.loads(made.stdout)["host_key"]

    # --- start and stop ---

    def start(self) -> None:
        """Start it; return when it accepts connections."""
        self._process = DaemonProcess(self.config, self.directory / "log", prefix=self.network.daemon_prefix)

    def stop(self) -> None:
        """End it with SIGTERM."""
        if self._process is not None:
            for pid in (*self.fronts(), *self.workers()):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            self._process.stop()
            self._process = None

    def close(self) -> None:
        """End it, and the tests' connection to it."""
        self.disconnect()
        self.stop()

    def disconnect(self) -> None:
        """End the tests' connection to it; the next request makes another."""
        if self._client is not None:
            self._client.close()
            self._client = None

    @property
    def process(self) -> DaemonProcess:
        """The launcher."""
        assert self._process is not None, "the daemon does not run"
        return self._process

    @property
    def running(self) -> bool:
        """Has it been started, and not stopped?"""
        return self._process is not None and self._process.running

    def fronts(self) -> list[int]:
        """The front process."""
        return self.process.fronts()

    def workers(self) -> list[int]:
        """The token workers."""
        return self.process.workers()

    def wait_for_token(self) -> None:
        """Wait until all workers are ready."""

        problem: list[object] = []

        def ready() -> bool:
            try:
                tokens = self.ask(Status()).tokens
            except HsmdError as error:
                problem[:] = [error]
                return False
            problem[:] = [tokens]
            return bool(tokens and tokens[0].workers) and all(
                worker.state in ("ready", "spare") for worker in tokens[0].workers
            )

        try:
            wait_until(ready, "the token's workers are ready", READY_S)
        except AssertionError as error:
            raise AssertionError(f"{error}: {problem}\n{self.process.log.read_text()[-4000:]}") from None

    # --- requests ---

    def endpoint(self, user: str, identity: Path) -> Endpoint:
        """The endpoint for a client."""
        return Endpoint(*parse_address(self.network.address), (self.host_key,), user, identity)

    def ask(self, request: Request, *, timeout_s: float = ASK_S) -> Any:
        """Make a control request as the operator. Raises HsmdError."""
        if self._client is None:
            identity = profiles.load(self.profile).identity
            assert identity is not None
            self._client = Client.connect(self.endpoint(OPERATOR, identity))
        return self._client.control(request, timeout_s=timeout_s)

    def command(self, *arguments: str | Path) -> Any:
        """Run an `hsmd` command as the operator; return its JSON document. AssertionError if it fails."""
        done = run(hsmd(*arguments, "--profile", self.profile, "--daemon", self.network.address, "--json"))
        assert done.returncode == 0, f"hsmd {arguments}: {done.stderr}{done.stdout}"
        return json.loads(done.stdout)

    # --- the audit log ---

    @property
    def log_size(self) -> int:
        """Current size of the audit log in bytes, as the `since` of a later call of `uses`."""
        return self._audit_file.stat().st_size

    @property
    def _audit_file(self) -> Path:
        return self.directory / "audit" / "audit.jsonl"

    def records(self, since: int = 0) -> list[dict[str, Any]]:
        """The records after byte `since` of the audit log, without a partially written line."""
        with self._audit_file.open("rb") as file:
            file.seek(since)
            lines = file.read().split(b"\n")[:-1]
        return [json.loads(line) for line in lines]

    def uses(self, since: int = 0) -> list[Use]:
        """The attempts of clients after byte `since` with their outcomes, without the daemon's own, which name no client."""
        records = self.records(since)
        outcomes = {record["attempt"]: record for record in records if record["event"] == "outcome"}
        attempts = [record for record in records if record["event"] == "attempt" and "client" in record]
        return [_use(attempt, outcomes.get(attempt["index"], {})) for attempt in attempts]

    def wait_for_use(self, since: int, wanted: Callable[[Use], bool]) -> Use:
        """Wait for the first closed use after byte `since` that is `wanted`; AssertionError if there is none soon."""
        deadline = time.monotonic() + 5
        while True:
            uses = self.uses(since)
            for use in uses:
                if use.result and wanted(use):
                    return use
            assert time.monotonic() < deadline, f"no such use among {uses}"
            time.sleep(0.02)

    def verify(self) -> None:
        """Check the complete log with `hsmd audit verify`."""
        done = run(hsmd("audit", "verify", "--log", self._audit_file, "--json"))
        assert done.returncode == 0, done.stdout + done.stderr


def _use(attempt: dict[str, Any], outcome: dict[str, Any]) -> Use:
    return Use(
        attempt["index"],
        attempt["client"],
        attempt["key_name"],
        attempt["purpose"],
        attempt["scheme"],
        attempt["asked"],
        outcome.get("result", ""),
        outcome.get("answer", ""),
    )
