"""Load on a daemon, and the conditions that must hold afterwards."""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmd.client import Connection
from hsmd.errors import HsmdError, Unavailable
from hsmd.protocol import messages
from hsmd.purposes import Purpose
from tests.support.daemon import Daemon
from tests.support.tls_bytes import P256, TLS13

GRACE_S = 0.050
"""How long after its deadline a caller may wait."""


@dataclass
class Done:
    """One request that ended, with an answer or an error."""

    data: bytes
    took_s: float
    answer: bytes = b""
    error: HsmdError | None = None


@dataclass
class Load:
    """A client that keeps `parallel` requests for a P-256 key open, each for different bytes."""

    daemon: Daemon
    client: str
    key: bytes
    parallel: int = 8
    timeout_s: float = 3.0
    done: list[Done] = field(default_factory=list)
    lag_s: float = 0.0
    _stopping: bool = False
    _number: int = 0

    async def __aenter__(self) -> Load:
        self._connection = Connection(self.daemon.endpoint(self.client))
        await self._connection.start()
        self._tasks = [asyncio.create_task(self._keep_signing()) for _ in range(self.parallel)]
        self._tasks.append(asyncio.create_task(self._measure_lag()))
        return self

    async def __aexit__(self, *_: Any) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)
        await self._connection.close()

    async def more(self, count: int) -> None:
        """Wait until `count` more requests have ended."""
        wanted = len(self.done) + count
        async with asyncio.timeout(30):
            while len(self.done) < wanted:
                await asyncio.sleep(0.005)

    @property
    def failures(self) -> list[HsmdError]:
        return [done.error for done in self.done if done.error is not None]

    async def _keep_signing(self) -> None:
        while not self._stopping:
            self._number += 1
            unique = hashlib.sha256(f"{self.client} {id(self)} {self._number}".encode()).digest()
            data = TLS13[:-32] + unique
            began = time.monotonic()
            try:
                answer = await self._connection.use_key(
                    self.key, Purpose.TLS13_SERVER, P256, data, timeout_s=self.timeout_s
                )
            except HsmdError as error:
                self.done.append(Done(data, time.monotonic() - began, error=error))
                if isinstance(error, Unavailable):
                    await asyncio.sleep(0.02)
            else:
                self.done.append(Done(data, time.monotonic() - began, answer))

    async def _measure_lag(self) -> None:
        while not self._stopping:
            began = time.monotonic()
            await asyncio.sleep(0.01)
            self.lag_s = max(self.lag_s, time.monotonic() - began - 0.01)

    def check(self) -> None:
        """Check that no request took too long, every signature is valid and has its records in order, and all attempts are closed."""
        slowest = max(done.took_s for done in self.done)
        assert slowest <= self.timeout_s + GRACE_S + self.lag_s, slowest
        public = load_der_public_key(
            next(each.public_key for each in self._keys() if each.digest == self.key.hex())
        )
        assert isinstance(public, ec.EllipticCurvePublicKey)
        attempts: dict[str, list[int]] = {}
        outcomes: dict[int, dict[str, Any]] = {}
        for record in self.daemon.audit():
            if record["event"] == "attempt":
                attempts.setdefault(record["asked"], []).append(record["index"])
            elif record["event"] == "outcome":
                assert record["attempt"] not in outcomes, "an attempt has one outcome"
                outcomes[record["attempt"]] = record
        assert {index for each in attempts.values() for index in each} == outcomes.keys(), (
            "an attempt was left open"
        )
        for done in self.done:
            if not done.answer:
                continue
            public.verify(done.answer, done.data, ec.ECDSA(hashes.SHA256()))
            answer = hashlib.sha256(done.answer).hexdigest()
            closed = [outcomes[index] for index in attempts[hashlib.sha256(done.data).hexdigest()]]
            assert [
                each for each in closed if each.get("answer") == answer and each["index"] > each["attempt"]
            ]

    def _keys(self) -> list[messages.KeyInfo]:
        page: messages.KeyPage = self.daemon.ask(messages.KeyList(limit=500))
        return page.keys


async def all_ready(daemon: Daemon, operator: Connection, within_s: float = 15.0) -> None:
    """Wait until every worker is ready."""
    async with asyncio.timeout(within_s):
        while True:
            status = await operator.control(messages.Status(), timeout_s=5)
            states = [worker.state for worker in status.tokens[0].workers]
            if len(states) == daemon.workers + 1 and set(states) <= {"ready", "busy"}:
                return
            await asyncio.sleep(0.02)
