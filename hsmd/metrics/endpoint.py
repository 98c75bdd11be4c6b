"""The HTTP endpoint of a daemon or agent: GET /metrics, /healthz and /readyz over HTTP/1.1, and nothing else.

It runs on the event loop that serves handshakes. So it accepts few connections, short requests and one request on each
connection, has a deadline, and lets the loop run between pieces of the text.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterable

from prometheus_client.core import Metric

from hsmd import observe
from hsmd.health.levels import FAILING
from hsmd.metrics.exposition import CONTENT_TYPE, Process, pieces
from hsmd.protocol.messages import Health
from hsmd.system.addresses import ListenAddress

MAX_CONNECTIONS = 8
MAX_REQUEST_BYTES = 8_192
"""Request line and header fields."""
STOPPING = "stopping"
"""The condition of a process that accepts nothing new."""
DEADLINE_S = 5.0
"""From the connection to the last byte of the answer."""

log = observe.logger()


class MetricsEndpoint:
    """Listens on the address that `apply` sets.

    `families` returns the present numbers, `health` the present health. Of findings only what /metrics shows, too, is shown:
    no texts, which hold reasons of the operating system and of modules.
    """

    def __init__(
        self,
        families: Callable[[], Iterable[Metric]],
        health: Callable[[], Health],
        *,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._families = families
        self._health = health
        self._deadline_s = deadline_s
        self._process = Process()
        self._server: asyncio.Server | None = None
        self._wanted: ListenAddress | None = None
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def port(self) -> int:
        """The port on which it listens; 0 if it does not listen."""
        return self._server.sockets[0].getsockname()[1] if self._server is not None else 0

    async def apply(self, address: ListenAddress | None) -> None:
        """Listen on this address, or stop listening. A failure is only logged, so that keys are served without metrics."""
        if address == self._wanted and (self._server is not None or address is None):
            return
        await self.close()
        self._wanted = address
        if address is None:
            return
        try:
            self._server = await asyncio.start_server(
                self._connected, address.host, address.port, limit=MAX_REQUEST_BYTES
            )
        except OSError as error:
            log.error("metrics.not_listening", address=str(address), error=error.strerror)
            return
        log.info("metrics.listening", address=f"{address.host}:{self.port}")

    async def close(self) -> None:
        """Stop listening and abort open connections."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._open):
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._open.add(writer)
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._answer(reader, writer)
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # the next scrape is a new connection
        finally:
            self._open.discard(writer)
            with contextlib.suppress(OSError):
                writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            writer.write(
                _plain(
                    "431 Request Header Fields Too Large", b"request line and header fields are too long\n"
                )
            )
            return
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        path, _, version = rest.partition(b" ")
        if not version.startswith(b"HTTP/1."):
            writer.write(_plain("400 Bad Request", b"use HTTP/1.1\n"))
        elif method not in (b"GET", b"HEAD"):
            writer.write(_plain("405 Method Not Allowed", b"use GET\n", "Allow: GET, HEAD\r\n"))
        else:
            await self._get(writer, path.partition(b"?")[0], body=method == b"GET")

    async def _get(self, writer: asyncio.StreamWriter, path: bytes, *, body: bool) -> None:
        if path == b"/metrics":
            await self._metrics(writer, body=body)
        elif path == b"/healthz":
            health = self._health()
            serving = all(finding.condition != STOPPING for finding in health.findings)
            writer.write(_document({"serving": serving}, good=serving, body=body))
        elif path == b"/readyz":
            health = self._health()
            writer.write(_document(_shown(health), good=health.level != FAILING, body=body))
        else:
            writer.write(
                _plain("404 Not Found", b"metrics are at /metrics, health at /healthz and /readyz\n")
            )

    async def _metrics(self, writer: asyncio.StreamWriter, *, body: bool) -> None:
        # The end of the connection ends the text (RFC 9112, section 6.3), because its length is not known beforehand.
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {CONTENT_TYPE}\r\nConnection: close\r\n\r\n".encode())
        if not body:
            return
        for piece in pieces(self._all_families()):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)

    def _all_families(self) -> Iterable[Metric]:
        yield from self._process.families()
        yield from self._families()


def _shown(health: Health) -> dict[str, object]:
    findings = [
        {"condition": each.condition, "severity": each.severity, "subject": each.subject}
        for each in health.findings
    ]
    return {"level": health.level, "findings": findings}


def _document(document: dict[str, object], *, good: bool, body: bool) -> bytes:
    """An answer in JSON: 200 or, if it is not `good`, 503."""
    text = json.dumps(document, ensure_ascii=True).encode() + b"\n"
    status = "200 OK" if good else "503 Service Unavailable"
    return _answer(status, "application/json", text, "Cache-Control: no-store\r\n", body=body)


def _plain(status: str, text: bytes, more: str = "") -> bytes:
    return _answer(status, "text/plain; charset=utf-8", text, more, body=True)


def _answer(status: str, content_type: str, content: bytes, more: str, *, body: bool) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(content)}\r\n{more}"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + (content if body else b"")
