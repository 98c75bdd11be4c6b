"""The agent's connections to its daemons: one to each; the first available one is used."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

from hsmd import observe
from hsmd.agent.daemon_health import DaemonHealth
from hsmd.agent.news import News
from hsmd.client.channel import Answered
from hsmd.client.connection import Connection
from hsmd.client.endpoint import Endpoint
from hsmd.client.requests import Ask
from hsmd.client.witness import LogRefused, Witness
from hsmd.errors import ConfigurationError, ErrorCode, HsmdError, Unavailable
from hsmd.protocol.frames import Kind, error_code, with_deadline
from hsmd.protocol.messages import Request, UpstreamDaemon

log = observe.logger()

_ELSEWHERE = frozenset({int(ErrorCode.UNAVAILABLE), int(ErrorCode.DRAINING)})
"""Error codes after which the request is sent to another daemon."""
PROBE_S = 0.1
"""How long a request waits for a daemon that was silent before it, and may be gone, until it is sent to another one."""


class Cancellable(Protocol):
    """An open request."""

    def cancel(self) -> None: ...
    def when_settled(self, settled: Answered) -> bool:
        """As `Ticket.when_settled`."""


class Upstream:
    """Connections to the daemons of the configuration, in its order.

    `changed(connection)` is called when a connection becomes available, `replaced(name)` when a daemon has another certificate
    for a key, `missed()` when that may be so for any, and `health_changed()` when a daemon reports another health.
    """

    def __init__(
        self,
        *,
        changed: Callable[[Connection], None],
        replaced: Callable[[str], None],
        missed: Callable[[], None],
        witness: Witness,
        health_changed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._changed = changed
        self._replaced = replaced
        self._missed = missed
        self._witness = witness
        self._clock = clock
        self._connections: list[Connection] = []
        self._news: dict[Connection, News] = {}
        self._failing: frozenset[Connection] = frozenset()
        """Connected daemons that report that they can use no key of this agent."""
        self._new: set[Connection] = set()
        """Connections whose daemons have not been asked yet whether they can use keys: after a restart not at once."""
        self.health = DaemonHealth(
            lambda: self._connections, health_changed, asked=self._new.difference_update
        )

    @property
    def connections(self) -> list[Connection]:
        """One to each daemon of the configuration, in its order."""
        return self._connections

    def avoid(self, failing: Iterable[Connection]) -> None:
        """Prefer other daemons to these."""
        self._failing = frozenset(failing)

    def apply(self, endpoints: Iterable[Endpoint]) -> list[Connection]:
        """Connect to new daemons and keep existing connections; return those that are no longer configured."""
        present = {connection.endpoint: connection for connection in self._connections}
        wanted = list(endpoints)
        self._connections = [
            present[endpoint] if endpoint in present else self._open(endpoint) for endpoint in wanted
        ]
        return [connection for connection in present.values() if connection not in self._connections]

    async def end(self, connection: Connection) -> None:
        """End a connection that is no longer configured."""
        self._new.discard(connection)
        news = self._news.pop(connection, None)
        if news is not None:
            await news.close()
        await connection.close()

    async def close(self) -> None:
        """End all connections."""
        connections, self._connections = self._connections, []
        await asyncio.gather(*(news.close() for news in self._news.values()))
        self._news.clear()
        await asyncio.gather(*(connection.close() for connection in connections))

    def trust(self, witness: Witness) -> None:
        """Use this witness for the daemons' logs from now on."""
        self._witness = witness

    async def examine(self) -> None:
        """Check the logs of all daemons again; a daemon whose log does not continue becomes unavailable."""
        await asyncio.gather(
            *(self._examine(connection) for connection in self._connections if connection.available)
        )

    async def _examine(self, connection: Connection) -> None:
        def ask(request: Request, timeout_s: float) -> Awaitable[Any]:
            return connection.control(request, timeout_s=timeout_s)

        try:
            await self._witness.examine(_address(connection), ask)
        except (LogRefused, ConfigurationError) as error:
            connection.distrust(error)
        except HsmdError as error:
            log.warning("witness.not_shown", daemon=str(connection.endpoint), error=error.text)

    @property
    def problems(self) -> list[str]:
        """The reasons why daemons are not used, for those whose logs are refused."""
        return [
            connection.problem.text
            for connection in self._connections
            if isinstance(connection.problem, (LogRefused, ConfigurationError)) and not connection.available
        ]

    @property
    def daemons(self) -> list[UpstreamDaemon]:
        """All daemons of the configuration in their order, and whether requests would be sent to them now."""
        return [
            UpstreamDaemon(_address(connection), connection.available) for connection in self._connections
        ]

    @property
    def available(self) -> Connection | None:
        """The connection in use now: the first that is available, of a daemon that can use keys if there is one."""
        found = None
        for connection in self._connections:
            if connection.available:
                if connection not in self._failing and connection not in self._new:
                    return connection
                found = found or connection
        return found

    def forward(self, body: bytes, deadline_ms: int, answered: Answered) -> Cancellable:
        """Send the body of a key operation unchanged. `answered` as for `Connection.submit`. Raises HsmdError."""
        connection = self.available
        if connection is None:
            raise Unavailable("no daemon can be reached")
        if len(self._connections) == 1:
            return connection.forward(body, deadline_ms, answered)
        return _Attempt(self, connection, body, self._clock() + deadline_ms / 1000, answered)

    def elsewhere(self, connection: Connection) -> Connection | None:
        """Another available connection."""
        return next(
            (other for other in self._connections if other.available and other is not connection), None
        )

    def _open(self, endpoint: Endpoint) -> Connection:
        def on_state(available: bool) -> None:
            if available:
                self._new.add(connection)
                self._changed(connection)
                self.health.ask_soon()

        async def examine(ask: Ask) -> None:
            await self._witness.examine(endpoint.address, ask)

        connection = Connection(
            endpoint,
            patient=True,
            examine=examine,
            on_state=on_state,
            clock=self._clock,
        )
        connection.begin()
        self._news[connection] = News(connection, self._replaced, self._missed)
        return connection


def _address(connection: Connection) -> str:
    assert isinstance(connection.endpoint, Endpoint)
    return connection.endpoint.address


class _Attempt:
    """A request that is sent once more, to another daemon, if the first is lost or silent. A signature may be made twice."""

    __slots__ = ("_answered", "_body", "_connection", "_deadline", "_probe", "_ticket", "_upstream")

    def __init__(
        self, upstream: Upstream, connection: Connection, body: bytes, deadline: float, answered: Answered
    ) -> None:
        self._upstream = upstream
        self._connection = connection
        self._body = body
        self._deadline = deadline
        self._answered = answered
        self._ticket = self._send(connection, self._first)
        self._probe: asyncio.TimerHandle | None = None
        if connection.probing:
            self._probe = asyncio.get_running_loop().call_later(PROBE_S, self._probed)

    def cancel(self) -> None:
        self._end_probe()
        self._ticket.cancel()

    def when_settled(self, settled: Answered) -> bool:
        return self._ticket.when_settled(settled)

    def _send(self, connection: Connection, answered: Answered) -> Cancellable:
        left_ms = max(1, round((self._deadline - self._upstream._clock()) * 1000))
        return connection.forward(with_deadline(self._body, left_ms), left_ms, answered)

    def _first(self, kind: int, body: bytes) -> None:
        """The first daemon has answered."""
        self._end_probe()
        if kind == Kind.ERROR and error_code(body) in _ELSEWHERE and self._send_elsewhere():
            return
        self._answered(kind, body)

    def _probed(self) -> None:
        """The first daemon has had its time: if it was not heard, another one gets the request."""
        self._probe = None
        first = self._ticket
        if self._connection.probing and self._send_elsewhere():
            first.cancel()

    def _end_probe(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None

    def _send_elsewhere(self) -> bool:
        """Send the request to another daemon; return False if none accepts it."""
        other = self._upstream.elsewhere(self._connection)
        if other is None or self._upstream._clock() >= self._deadline:
            return False
        try:
            self._ticket = self._send(other, self._answered)
        except HsmdError:
            return False
        return True
