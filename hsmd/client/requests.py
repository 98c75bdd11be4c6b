"""One request over a channel: send it, wait for its answer, and decode that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from hsmd.client.channel import Channel
from hsmd.errors import BadRequest, DeadlineExceeded, HsmdError, ProtocolError
from hsmd.protocol.frames import MAX_DEADLINE_MS, Kind, control_request_body, decode_error
from hsmd.protocol.messages import Request, decode_result, encode_request

Ask = Callable[[Request, float], Awaitable[Any]]
"""Sends a control request, with a time-out in seconds, and returns its result. Raises HsmdError."""


async def control(
    channel: Channel, request: Request, timeout_s: float, *, begun: Callable[[], None] = lambda: None
) -> Any:
    """The result of a control request on one channel. Raises HsmdError.

    `begun` is called as soon as a result is there, before any frame behind it is handled.
    """
    deadline_ms = deadline_in_ms(timeout_s)
    body = control_request_body(deadline_ms, encode_request(request))
    kinds = (Kind.CONTROL_REQUEST, Kind.CONTROL_RESULT)
    return decode_result(await ask(channel, *kinds, body, deadline_ms / 1000, begun=begun), request.Result)


async def ask(
    channel: Channel,
    kind: int,
    answer_kind: int,
    body: bytes,
    timeout_s: float,
    *,
    begun: Callable[[], None] = lambda: None,
) -> bytes:
    """The body of the answer to a frame of `kind`; the request is cancelled with the caller's task. Raises HsmdError."""
    future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def answered(kind: int, body: bytes) -> None:
        if future.done():
            return
        if kind == Kind.ERROR:
            future.set_exception(_error(body))
        else:
            begun()
            future.set_result(body)

    ticket = channel.request(kind, answer_kind, body, timeout_s, answered)
    try:
        return await future
    finally:
        ticket.cancel()


def deadline_in_ms(timeout_s: float) -> int:
    """A time-out in the unit of frames. Raises DeadlineExceeded when nothing is left, BadRequest above 60 s."""
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
