"""Keep a token worker busy with as many key operations as one connection to the daemon permits."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType

from hsmd.client import Connection, Endpoint
from hsmd.errors import HsmdError
from hsmd.purposes import Purpose

OPEN = 64
_DATA = b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + bytes(32)


class Saturation:
    """Signs with one key continuously until the block ends; `count` is the number of signatures."""

    def __init__(self, endpoint: Endpoint, key: bytes, scheme: int) -> None:
        self._endpoint, self._key, self._scheme = endpoint, key, scheme
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self.count = 0

    def __enter__(self) -> Saturation:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(20)

    async def _run(self) -> None:
        async with Connection(self._endpoint) as connection:
            await asyncio.gather(*(self._sign(connection) for _ in range(OPEN)))

    async def _sign(self, connection: Connection) -> None:
        while not self._stop.is_set():
            try:
                await connection.use_key(self._key, Purpose.TLS13_SERVER, self._scheme, _DATA, timeout_s=10)
                self.count += 1
            except HsmdError:
                await asyncio.sleep(0.05)
