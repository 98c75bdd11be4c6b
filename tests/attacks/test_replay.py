"""A3: captured traffic is useless on another connection, for another client, or after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from typing import Any

from hsmd.client import Connection
from hsmd.errors import ErrorCode
from hsmd.protocol.frames import Kind
from hsmd.purposes import Purpose
from tests.support.daemon import MAIL, WEB, Daemon, run_aside
from tests.support.fault_module.control import FaultModule
from tests.support.ssh_peer import operation, ssh, wire
from tests.support.tls_bytes import P256, TLS13, tls13


def attempts(daemon: Daemon) -> list[dict[str, Any]]:
    return [record for record in daemon.audit("attempt") if record["client"] in (WEB, MAIL)]


def used(module: FaultModule) -> int:
    """Number of signatures for clients' requests, without the trial signature that a new key makes on data of its own."""
    digests = {sha256(TLS13).digest(), *(sha256(tls13(number)).digest() for number in range(3))}
    return sum(call.asked in digests for call in module.uses())


def test_a_captured_connection_cannot_be_replayed(
    open_daemon: Callable[..., Daemon], fault_module: FaultModule
) -> None:
    """Replay all bytes that a front end sent: on a new connection, on several at once, and after a restart of the daemon."""
    daemon = open_daemon(before=fault_module.before)
    key = daemon.add_key("site")
    captured = run_aside(lambda: capture(daemon, key))
    assert len(attempts(daemon)) == used(fault_module) == 3
    for _ in range(2):
        for times in (1, 4):
            run_aside(lambda times=times: play(daemon, captured, times))  # type: ignore[misc]
        assert len(attempts(daemon)) == used(fault_module) == 3, "a replayed connection used a key"
        assert daemon.stop() == 0
        daemon.start()


async def capture(daemon: Daemon, key: bytes) -> bytes:
    """The bytes that a client sends while it requests three signatures."""
    sent = bytearray()
    ended = asyncio.Event()

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter, note: bytearray) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                note += data
                sink.write(data)
                await sink.drain()
            sink.write_eof()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection(*daemon.address)
        await asyncio.gather(copy(reader, upstream_writer, sent), copy(upstream_reader, writer, bytearray()))
        for each in (writer, upstream_writer):
            each.close()
            with suppress(OSError):
                await each.wait_closed()
        ended.set()

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    endpoint = daemon.endpoint(WEB, port=server.sockets[0].getsockname()[1])
    async with Connection(endpoint) as client:
        for number in range(3):
            assert await client.use_key(key, Purpose.TLS13_SERVER, P256, tls13(number), timeout_s=10)
    async with asyncio.timeout(10):
        await ended.wait()
    server.close()
    return bytes(sent)


async def play(daemon: Daemon, captured: bytes, times: int) -> None:
    """Send the bytes, and wait until the daemon has closed each connection or stopped answering."""

    async def once() -> None:
        reader, writer = await asyncio.open_connection(*daemon.address)
        with suppress(OSError):
            writer.write(captured)
            writer.write_eof()
            async with asyncio.timeout(15):
                while await reader.read(65_536):
                    pass
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    await asyncio.gather(*(once() for _ in range(times)))


def test_a_frame_has_only_the_rights_of_its_connection(
    open_daemon: Callable[..., Daemon], fault_module: FaultModule
) -> None:
    """The same frame from another client is refused; from the same client it is a new request, with its own record."""
    daemon = open_daemon(before=fault_module.before)
    key = daemon.add_key("site", grant_to=(WEB,))
    frame = operation(7, key, TLS13)

    async def work() -> None:
        async with await ssh(daemon, WEB) as own, await ssh(daemon, MAIL) as other:
            first, second, foreign = await wire(own), await wire(own), await wire(other)
            for channel in (first, second):  # ids are per channel
                channel.write(frame)
                assert (await channel.answer(7))[0] == Kind.RESULT
            foreign.write(frame)
            assert (await foreign.error(7)).code == ErrorCode.REFUSED
            # The request is answered, so the id may be used again for a new request.
            before = len(first.frames)
            first.write(frame)
            while len(first.frames) == before:
                await asyncio.sleep(0.005)
            assert first.frames[-1][:2] == (Kind.RESULT, 7)

    run_aside(work)
    found = attempts(daemon)
    assert [record["client"] for record in found] == [WEB] * 3
    assert used(fault_module) == 3, "one attempt for each C_Sign and one C_Sign for each attempt"
    outcomes = [
        record for record in daemon.audit("outcome") if record["attempt"] in {each["index"] for each in found}
    ]
    assert len(outcomes) == len({record["attempt"] for record in outcomes}) == 3
    assert {record["result"] for record in outcomes} == {"performed"}
    assert [record["client"] for record in daemon.audit("refusal")] == [MAIL]


def test_the_id_of_an_open_request_cannot_be_reused(
    open_daemon: Callable[..., Daemon], fault_module: FaultModule
) -> None:
    """The same frame twice in one write ends the channel; at most the first one is carried out."""
    daemon = open_daemon(before=fault_module.before)
    key = daemon.add_key("site")

    async def work() -> None:
        async with await ssh(daemon, WEB) as connection:
            for _ in range(20):
                channel = await wire(connection)
                channel.write(operation(5, key, TLS13) * 2)
                assert (await channel.error(0)).code == ErrorCode.PROTOCOL
                await channel.closed.wait()

    run_aside(work)
    found = attempts(daemon)
    assert used(fault_module) <= len(found) <= 20
    daemon.stop()
    outcomes = [record["attempt"] for record in daemon.audit("outcome")]
    assert sorted(outcomes) == sorted(record["index"] for record in daemon.audit("attempt"))
