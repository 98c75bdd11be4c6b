"""A TCP connection whose peer has gone is noticed while nothing is read from it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from typing import Any

import pytest
import uvloop

from hsmd.system.sockets import peer_has_closed
from tests.support.polling import eventually


@asynccontextmanager
async def unread_connection() -> AsyncIterator[tuple[socket.socket, asyncio.StreamWriter]]:
    """A peer, and the server's end of its connection, from which nothing is read."""
    accepted: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        accepted.put_nowait(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    peer = socket.create_connection(server.sockets[0].getsockname())
    writer = await accepted.get()
    with closing(server), closing(peer), closing(writer.transport):
        yield peer, writer


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_peer_that_has_closed_is_noticed_although_nothing_is_read(run: Any) -> None:
    """The front runs on uvloop, programs that use the client on the loop of Python as well."""
    run(_peer_closes())


async def _peer_closes() -> None:
    async with unread_connection() as (peer, writer):
        peer.sendall(bytes(1000))
        assert not peer_has_closed(writer.transport)
        peer.close()
        await eventually(lambda: peer_has_closed(writer.transport))
        writer.transport.abort()
        await writer.wait_closed()
        assert not peer_has_closed(writer.transport)


async def test_a_peer_that_had_more_to_send_has_closed_once_something_was_sent_to_it() -> None:
    async with unread_connection() as (peer, writer):
        peer.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                peer.send(bytes(1 << 20))
        peer.close()
        assert not peer_has_closed(writer.transport), "or what it had sent is not enough"
        writer.write(b"is it there")
        await eventually(lambda: peer_has_closed(writer.transport))
