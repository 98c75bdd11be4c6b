"""The metrics endpoint: what it answers, and that no peer can keep it busy."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from hsmd.metrics.daemon_families import families
from hsmd.metrics.endpoint import MAX_CONNECTIONS, MAX_REQUEST_BYTES, MetricsEndpoint
from hsmd.protocol.messages import Finding, Health
from hsmd.system.addresses import ListenAddress
from tests.support.metrics import numbers_of

LOOPBACK = ListenAddress("127.0.0.1", 0)


WELL = Health("well")


def endpoint_of(uses: int, health: Health = WELL, **options: float) -> MetricsEndpoint:
    return MetricsEndpoint(lambda: families(numbers_of(uses)), lambda: health, **options)


@pytest.fixture
async def endpoint() -> AsyncIterator[MetricsEndpoint]:
    made = endpoint_of(500, deadline_s=0.5)
    await made.apply(LOOPBACK)
    try:
        yield made
    finally:
        await made.close()


async def ask(endpoint: MetricsEndpoint, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", endpoint.port)
    try:
        async with asyncio.timeout(5):
            writer.write(request)
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_get_is_answered(endpoint: MetricsEndpoint) -> None:
    answer = await ask(endpoint, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"text/plain; version=0.0.4" in head
    assert body.count(b"\nhsmd_operations_total{") == 500
    assert body.count(b"# TYPE hsmd_operations_total counter") == 1
    assert body.endswith(b"\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"a" * MAX_REQUEST_BYTES * 2 + b"\r\n\r\n", b"431"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"200"),
    ],
    ids=["path", "method", "no version", "tls", "too long", "head"],
)
async def test_other_requests_are_refused_or_have_no_body(
    endpoint: MetricsEndpoint, request_: bytes, status: bytes
) -> None:
    answer = await ask(endpoint, request_)
    assert answer.split(b" ")[1] == status
    assert b"hsmd_operations" not in answer


SECRET = Finding("token-away", "failing", "main", "/usr/lib/module.so: 10.9.0.7 does not answer", "fix it")


@pytest.mark.parametrize(
    ("health", "live", "ready"),
    [
        (WELL, 200, 200),
        (Health("degraded", [Finding("disk-low", "degraded")]), 200, 200),
        (Health("partial", [Finding("token-away", "partial", "main")]), 200, 200),
        (Health("failing", [SECRET]), 200, 503),
        (Health("failing", [Finding("stopping", "failing")]), 503, 503),
    ],
    ids=lambda value: value.level if isinstance(value, Health) else "",
)
async def test_health_is_answered_as_it_is(health: Health, live: int, ready: int) -> None:
    endpoint = endpoint_of(0, health)
    await endpoint.apply(LOOPBACK)
    try:
        shown = {}
        for path, status in (("healthz", live), ("readyz", ready)):
            head, _, body = (await ask(endpoint, f"GET /{path} HTTP/1.1\r\n\r\n".encode())).partition(
                b"\r\n\r\n"
            )
            assert int(head.split(b" ")[1]) == status
            shown[path] = json.loads(body)
            headed = await ask(endpoint, f"HEAD /{path} HTTP/1.1\r\n\r\n".encode())
            assert headed == head + b"\r\n\r\n"
    finally:
        await endpoint.close()
    assert shown["healthz"] == {"serving": live == 200}
    findings = [
        {"condition": each.condition, "severity": each.severity, "subject": each.subject}
        for each in health.findings
    ]
    assert shown["readyz"] == {"level": health.level, "findings": findings}


async def test_a_connection_with_an_incomplete_request_is_closed(endpoint: MetricsEndpoint) -> None:
    assert await ask(endpoint, b"GET /metrics HTTP/1.1\r\nHost: x\r\n") == b""


async def test_idle_connections_are_closed_in_time_for_others(endpoint: MetricsEndpoint) -> None:
    idle = [await asyncio.open_connection("127.0.0.1", endpoint.port) for _ in range(MAX_CONNECTIONS * 2)]
    async with asyncio.timeout(5):
        for reader, _ in idle:
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
    answer = await ask(endpoint, b"GET /metrics HTTP/1.1\r\n\r\n")
    assert b"hsmd_build_info" in answer
    for _, writer in idle:
        writer.close()


async def test_a_peer_that_never_reads_is_disconnected() -> None:
    endpoint = endpoint_of(50_000, deadline_s=0.5)
    await endpoint.apply(LOOPBACK)
    _, writer = await asyncio.open_connection("127.0.0.1", endpoint.port, limit=1)
    writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
    async with asyncio.timeout(10):
        while not endpoint._open:
            await asyncio.sleep(0.005)
        while endpoint._open:
            await asyncio.sleep(0.005)
    writer.transport.abort()
    await endpoint.close()


async def test_an_address_in_use_does_not_stop_the_daemon(endpoint: MetricsEndpoint) -> None:
    second = endpoint_of(1)
    await second.apply(ListenAddress("127.0.0.1", endpoint.port))
    assert second.port == 0
    await second.apply(LOOPBACK)
    assert second.port != 0
    await second.apply(None)
    assert second.port == 0
