"""The synchronous client: the operations of `Connection` for programs without an event loop."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, TypeVar

from hsmd.client import agent_call
from hsmd.client.connection import Connection
from hsmd.client.endpoint import AgentEndpoint, Endpoint
from hsmd.client.requests import Ask, deadline_in_ms
from hsmd.errors import BadRequest, HsmdError, Unavailable
from hsmd.protocol.frames import Kind, control_request_body, key_operation_body
from hsmd.protocol.messages import Event, Request, decode_result, encode_request

STOP_S = 5.0
"""How long closing waits for the thread."""

T = TypeVar("T")


class Client:
    """Uses keys and sends control requests; thread-safe. A context manager, made by `Client.connect`."""

    @staticmethod
    def connect(
        endpoint: Endpoint | AgentEndpoint, *, examine: Callable[[Ask], Awaitable[None]] | None = None
    ) -> Client:
        """A client of a daemon (connected now, and reconnected whenever the connection is lost) or of an agent (a short
        connection for each operation, none now). `examine`: see `Connection`; for daemons only.

        Raises Unavailable, ProtocolError or ConfigurationError, or what `examine` raises.
        """
        return (
            _AgentClient(endpoint)
            if isinstance(endpoint, AgentEndpoint)
            else _DaemonClient(endpoint, examine)
        )

    def use_key(self, key: bytes, purpose: int, scheme: int, data: bytes, *, timeout_s: float = 5.0) -> bytes:
        """The signature (or premaster secret) that `key` (SHA-256 of its SubjectPublicKeyInfo) makes of `data`.

        Raises HsmdError.
        """
        raise NotImplementedError

    def control(self, request: Request, *, timeout_s: float = 15.0) -> Any:
        """The result of a control request, of the type `request.Result`. Raises HsmdError."""
        raise NotImplementedError

    @property
    def channel_binding(self) -> bytes:
        """See `Connection.channel_binding`; of daemons only."""
        raise BadRequest("a proof is bound to a connection to a daemon, not to an agent")

    def events(
        self, since: str = "", *, waiting: Callable[[HsmdError], None] | None = None
    ) -> Iterator[Event]:
        """Events that this client may read, from a cursor on, without end: see `Connection.events`. Of daemons only.

        `waiting` is called in another thread.
        """
        raise BadRequest("events come from a daemon, not from an agent")

    def close(self) -> None:
        """End the connection."""

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _AgentClient(Client):
    """Short connections to the agent."""

    def __init__(self, endpoint: AgentEndpoint) -> None:
        self._path = endpoint.path

    def use_key(self, key: bytes, purpose: int, scheme: int, data: bytes, *, timeout_s: float = 5.0) -> bytes:
        body = key_operation_body(deadline_in_ms(timeout_s), purpose, scheme, key, data)
        return self._ask(Kind.KEY_OPERATION, Kind.RESULT, body, timeout_s)

    def control(self, request: Request, *, timeout_s: float = 15.0) -> Any:
        body = control_request_body(deadline_in_ms(timeout_s), encode_request(request))
        return decode_result(
            self._ask(Kind.CONTROL_REQUEST, Kind.CONTROL_RESULT, body, timeout_s), request.Result
        )

    def _ask(self, kind: Kind, answer_kind: Kind, body: bytes, timeout_s: float) -> bytes:
        return agent_call.ask(self._path, kind, answer_kind, body, ends=time.monotonic() + timeout_s)


class _DaemonClient(Client):
    """A connection on the event loop of a private thread."""

    def __init__(self, endpoint: Endpoint, examine: Callable[[Ask], Awaitable[None]] | None) -> None:
        self._pid = os.getpid()
        self._loop = _event_loop()
        self._connection: Connection | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="hsmd-client", daemon=True)
        self._thread.start()
        try:
            self._connection = self._run(_started(endpoint, examine))
        except BaseException:
            self._stop()
            raise

    def use_key(self, key: bytes, purpose: int, scheme: int, data: bytes, *, timeout_s: float = 5.0) -> bytes:
        return self._run(self._open().use_key(key, purpose, scheme, data, timeout_s=timeout_s))

    def control(self, request: Request, *, timeout_s: float = 15.0) -> Any:
        return self._run(self._open().control(request, timeout_s=timeout_s))

    def events(
        self, since: str = "", *, waiting: Callable[[HsmdError], None] | None = None
    ) -> Iterator[Event]:
        found = self._open().events(since, waiting=waiting)

        async def following() -> Event:
            return await anext(found)

        try:
            while True:
                yield self._run(following())
        finally:
            if not self._loop.is_closed():  # otherwise `_stop` has ended it
                with suppress(RuntimeError):  # the step that an interrupt cancelled is about to end it
                    self._run(found.aclose())

    @property
    def channel_binding(self) -> bytes:
        async def read(connection: Connection) -> bytes:
            return connection.channel_binding

        return self._run(read(self._open()))

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and self._pid == os.getpid():
            self._run(connection.close())
            self._stop()

    def _open(self) -> Connection:
        if self._pid != os.getpid():
            raise Unavailable("this client was connected before a fork; connect again in the child process")
        if self._connection is None:
            raise Unavailable("this client is closed")
        return self._connection

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_S)
        if not self._thread.is_alive():
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()


async def _started(endpoint: Endpoint, examine: Callable[[Ask], Awaitable[None]] | None) -> Connection:
    connection = Connection(endpoint, examine=examine)
    await connection.start()
    return connection


def _event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
