"""Opening a wire to a daemon (over SSH) or to an agent (over its Unix socket)."""

from __future__ import annotations

import asyncio
import socket

from hsmd.client.agent_call import BACKLOG_RETRY_S
from hsmd.client.endpoint import AgentEndpoint, Endpoint
from hsmd.client.wire import REACH_S, Receiver, Wire
from hsmd.errors import Unavailable


async def open_wire(endpoint: Endpoint | AgentEndpoint, receiver: Receiver) -> Wire:
    """A channel to `endpoint` whose bytes go to `receiver`.

    Raises Unavailable (not reachable, or the identity is not accepted), ProtocolError (not the daemon that is pinned, or no
    common algorithm) or ConfigurationError (identity file).
    """
    if isinstance(endpoint, AgentEndpoint):
        return await _open_socket(endpoint, receiver)
    from hsmd.client.ssh_transport import open_ssh  # asyncssh is most of the import time of this package

    return await open_ssh(endpoint, receiver)


class _SocketWire(asyncio.Protocol):
    """The agent's socket as a wire."""

    binding = b""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._gone = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.write = transport.write
        self.close = transport.close

    def data_received(self, data: bytes) -> None:
        self._receiver.received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set()
        self._receiver.lost("the agent closed the connection" if exc is None else str(exc))

    async def wait_closed(self) -> None:
        await self._gone.wait()


async def _connected(path: str) -> socket.socket:
    """A socket connected to `path`; waits while the backlog is full, which event loops take for an error."""
    connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connecting.setblocking(False)
    try:
        while True:
            try:
                connecting.connect(path)
            except BlockingIOError:
                await asyncio.sleep(BACKLOG_RETRY_S)
            else:
                return connecting
    except BaseException:
        connecting.close()
        raise


async def _open_socket(endpoint: AgentEndpoint, receiver: Receiver) -> Wire:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(REACH_S):
            connected = await _connected(str(endpoint.path))
            _, wire = await loop.create_unix_connection(lambda: _SocketWire(receiver), sock=connected)
    except TimeoutError:
        raise Unavailable(f"{endpoint} does not accept connections") from None
    except OSError as error:
        raise Unavailable(f"{endpoint}: {error.strerror or error}; is the agent running?") from None
    return wire
