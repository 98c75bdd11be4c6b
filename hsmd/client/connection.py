"""A connection that stays: one multiplexed channel to a server, made again by itself whenever it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from hsmd import observe
from hsmd.client.channel import Answered, Channel, Ticket
from hsmd.client.endpoint import AgentEndpoint, Endpoint
from hsmd.client.transport import open_wire
from hsmd.client.wire import LOGIN_S
from hsmd.errors import (
    BadRequest,
    DeadlineExceeded,
    HsmdError,
    Overloaded,
    ProofInvalid,
    ProtocolError,
    Unavailable,
)
from hsmd.protocol.frames import (
    KEY_DIGEST_BYTES,
    MAX_DEADLINE_MS,
    Kind,
    control_request_body,
    decode_error,
    key_operation_body,
)
from hsmd.protocol.messages import Request, decode_result, encode_request

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
"""Back-off between attempts doubles from the first to the longest pause, with full jitter; the longest is short
enough to be back within two seconds of the daemon."""
STEADY_S = 1.0
"""A link that lived this long starts the back-off anew."""
CLOSE_S = 1.0

log = observe.logger()

R = TypeVar("R", bound=Struct)

Ask = Callable[[Request, float], Awaitable[Any]]
"""Puts a control request, with a time-out in seconds. Raises HsmdError."""


class Connection:
    """One multiplexed connection. Belongs to the event loop it is started on; not thread-safe.

    `available` says whether a request may be sent now: connected, not draining, and heard within 300 ms. Requests made while
    it is False fail at once with Unavailable; requests open when the connection is lost are answered so too, not repeated.

    `examine`, if given, is awaited with a way to put control requests whenever a connection was made, before it is used; what
    it raises ends that connection. `patient` is for those who pass on other processes' requests: see `Channel`.
    `on_state(available)` is called when that changes, `on_event(event)` with each event of the server (a JSON object).
    """

    def __init__(
        self,
        endpoint: Endpoint | AgentEndpoint,
        *,
        patient: bool = False,
        examine: Callable[[Ask], Awaitable[None]] | None = None,
        on_state: Callable[[bool], None] | None = None,
        on_event: Callable[[dict[str, Any]], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.endpoint = endpoint
        self.available = False
        self.problem: HsmdError | None = None
        self._patient = patient
        self._examine = examine
        self._on_state = on_state
        self._on_event = on_event
        self._clock = clock
        self._link: Channel | None = None
        self._links: set[Channel] = set()
        self._needed = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._closed = False

    # --- life ---

    async def start(self) -> None:
        """Connect, and stay connected from then on. Raises HsmdError if the first attempt fails; nothing is left then."""
        await self._connect()
        self._keep()

    def begin(self) -> None:
        """Connect in the background, trying until it works; `problem` says why it does not."""
        self._needed.set()
        self._keep()

    async def close(self) -> None:
        """End the connection; open requests are answered Unavailable."""
        self._closed = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        links = list(self._links)
        for link in links:
            link.close("closed by the caller")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await asyncio.gather(*(link.wait_closed() for link in links))

    async def __aenter__(self) -> Connection:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # --- requests, hot path ---

    def submit(
        self, deadline_ms: int, purpose: int, scheme: int, key: bytes, data: bytes, answered: Answered
    ) -> Ticket:
        """Ask for one use of a key within `deadline_ms` (1 to 60,000).

        `answered(kind, body)` is called exactly once unless the ticket is cancelled, never from within this call:
        (Kind.RESULT, answer) or (Kind.ERROR, body of an error frame), at the latest 10 ms after the deadline.
        Raises Unavailable or Overloaded when it cannot be sent now, BadRequest when `data` is too long.
        """
        body = key_operation_body(deadline_ms, purpose, scheme, key, data)
        return self.forward(body, deadline_ms, answered)

    def forward(self, body: bytes, deadline_ms: int, answered: Answered) -> Ticket:
        """`submit` for the body of a key operation frame as it was received; `deadline_ms` is the one in it."""
        link = self._link
        if link is None:
            raise Unavailable(f"{self.endpoint} is not connected")
        return link.request(Kind.KEY_OPERATION, Kind.RESULT, body, deadline_ms / 1000, answered)

    # --- requests, one at a time ---

    async def use_key(self, key: bytes, purpose: int, scheme: int, data: bytes, *, timeout_s: float) -> bytes:
        """The signature (or premaster secret) that `key` (SHA-256 of its SubjectPublicKeyInfo) makes of `data`.

        An overloaded server is asked again after its hint while there is time. Raises HsmdError.
        """
        if len(key) != KEY_DIGEST_BYTES:
            raise BadRequest(
                f"key: {len(key)} bytes; a key is named by the {KEY_DIGEST_BYTES} bytes of its SHA-256"
            )
        ends = self._clock() + timeout_s
        while True:
            left_s = ends - self._clock()
            deadline_ms = deadline_in_ms(left_s)
            try:
                body = key_operation_body(deadline_ms, purpose, scheme, key, data)
                return await _ask(
                    self._connected(), Kind.KEY_OPERATION, Kind.RESULT, body, deadline_ms / 1000
                )
            except Overloaded as error:
                pause_s = max(error.retry_after_ms, 1) / 1000
                if self._clock() + pause_s >= ends:
                    raise
                await asyncio.sleep(pause_s)

    async def control(self, request: Request, *, timeout_s: float) -> Any:
        """The result of a control request, of the type `request.Result`. Raises HsmdError."""
        return await _control(self._connected(), request, timeout_s)

    def distrust(self, error: HsmdError) -> None:
        """End the connection that is in use now, because of `error`; the next one is examined before it is used."""
        link = self._link
        if link is not None:
            link.close(error.text)
            self._note(error)

    def _connected(self) -> Channel:
        if self._link is None:
            raise self._unavailable()
        return self._link

    def _unavailable(self) -> HsmdError:
        why = f": {self.problem.text}" if self.problem is not None else ""
        return Unavailable(f"{self.endpoint} is not connected{why}")

    # --- keeping the connection ---

    def _keep(self) -> None:
        self._keeper = asyncio.get_running_loop().create_task(self._keep_connected())

    async def _keep_connected(self) -> None:
        attempt = 0
        began = self._clock()
        while True:
            await self._needed.wait()
            if self._clock() - began > STEADY_S:
                attempt = 0
            await asyncio.sleep(random.uniform(0, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**attempt)))
            attempt = min(attempt + 1, 16)
            try:
                await self._connect()
            except HsmdError as error:
                self._note(error)
            began = self._clock()

    async def _connect(self) -> None:
        """One attempt. Raises HsmdError."""
        link = Channel(self, patient=self._patient, clock=self._clock)
        try:
            wire = await open_wire(self.endpoint, link)
            self._links.add(link)
            async with asyncio.timeout(LOGIN_S):
                await link.greet(wire)
            if self._examine is not None:
                await self._examine(partial(_control, link))
        except TimeoutError:
            link.close("no welcome")
            await link.wait_closed()
            raise Unavailable(f"{self.endpoint} did not say welcome within {LOGIN_S:g} s") from None
        except BaseException:
            link.close("not connected")
            raise
        self._adopt(link)

    def _adopt(self, link: Channel) -> None:
        if link.ended or link.draining:
            raise Unavailable(f"{self.endpoint} is going away")
        self._link = link
        self._needed.clear()
        self.problem = None
        log.info("connection.up", daemon=str(self.endpoint))
        self._judge()

    def _note(self, error: HsmdError) -> None:
        """Log a failed attempt, once for each reason in a row."""
        if self.problem is None or self.problem.text != error.text:
            tell = log.error if isinstance(error, ProofInvalid) else log.warning
            tell("connection.failed", daemon=str(self.endpoint), error=error.text)
        self.problem = error

    def _judge(self) -> None:
        available = self._link is not None and self._link.alive
        if available is not self.available:
            self.available = available
            if self._on_state is not None:
                self._on_state(available)

    def _leave(self, link: Channel) -> None:
        if link is self._link:
            self._link = None
            self._needed.set()
            self._judge()

    # --- what links report ---

    def link_alive(self, link: Channel, alive: bool) -> None:
        self._judge()

    def link_draining(self, link: Channel, grace_ms: int) -> None:
        """Connect anew at once; the old link answers what is open and closes."""
        log.info("connection.draining", daemon=str(self.endpoint))
        self._leave(link)

    def link_lost(self, link: Channel, reason: str) -> None:
        self._links.discard(link)
        if link is self._link and not self._closed:
            self.problem = Unavailable(f"connection lost: {reason}")
            log.warning("connection.lost", daemon=str(self.endpoint), error=reason)
        self._leave(link)

    def link_event(self, document: bytes) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(msgspec.json.decode(document, type=dict[str, Any]))
        except (msgspec.MsgspecError, RecursionError):
            raise ProtocolError("an event is not a JSON object") from None


async def _control(link: Channel, request: Request, timeout_s: float) -> Any:
    """The result of a control request on one link. Raises HsmdError."""
    deadline_ms = deadline_in_ms(timeout_s)
    body = control_request_body(deadline_ms, encode_request(request))
    answer = await _ask(link, Kind.CONTROL_REQUEST, Kind.CONTROL_RESULT, body, deadline_ms / 1000)
    return decode_result(answer, request.Result)


async def _ask(link: Channel, kind: int, answer_kind: int, body: bytes, timeout_s: float) -> bytes:
    future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def answered(kind: int, body: bytes) -> None:
        if future.done():
            return
        if kind == Kind.ERROR:
            future.set_exception(_error(body))
        else:
            future.set_result(body)

    ticket = link.request(kind, answer_kind, body, timeout_s, answered)
    try:
        return await future
    finally:
        ticket.cancel()


def deadline_in_ms(timeout_s: float) -> int:
    """A time-out as frames carry it. Raises DeadlineExceeded when nothing is left, BadRequest above 60 s."""
    deadline_ms = round(timeout_s * 1000)
    if deadline_ms < 1:
        raise DeadlineExceeded
    if deadline_ms > MAX_DEADLINE_MS:
        raise BadRequest(f"timeout_s: {timeout_s:g} is more than {MAX_DEADLINE_MS // 1000} s")
    return deadline_ms


def _error(body: bytes) -> HsmdError:
    try:
        return decode_error(body)
    except ProtocolError as error:
        return error
