"""Control requests of a session: exactly one answer each, whatever the handler does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hsmd.errors import ErrorCode, Refused
from hsmd.protocol import messages
from hsmd.protocol.channel import FrameDecoder
from hsmd.protocol.frames import MAX_ANSWER_LENGTH, Kind, error_code
from hsmd.system.control_requests import MAX_CONTROL_REQUESTS, MAX_RESULT_BYTES, ControlRequests

DOCUMENT = messages.encode_request(messages.WhoAmI())


class World:
    """Requests whose handler does what the test sets."""

    def __init__(self) -> None:
        self.handle: Any = None
        self.written = b""
        self.requests = ControlRequests(self._carry_out, self._write, client="web")

    async def _carry_out(self, request: messages.Request, timeout_s: float) -> Any:
        return await self.handle(request, timeout_s)

    def _write(self, frame: bytes) -> None:
        self.written += frame

    async def answer(self, document: bytes = DOCUMENT, deadline_ms: int = 5_000) -> tuple[int, int, bytes]:
        self.requests.start(7, deadline_ms, document)
        assert self.written == b"", "never from within start"
        await self.finish()
        (frame,) = FrameDecoder(MAX_ANSWER_LENGTH).feed(self.written)
        return frame

    async def finish(self) -> None:
        await asyncio.gather(*self.requests.open.values(), return_exceptions=True)
        await asyncio.sleep(0)
        assert not self.requests.open

    async def error(self, document: bytes = DOCUMENT, deadline_ms: int = 5_000) -> int:
        kind, request_id, body = await self.answer(document, deadline_ms)
        assert (kind, request_id) == (Kind.ERROR, 7)
        return error_code(body)


async def never_ends(request: messages.Request, timeout_s: float) -> Any:
    await asyncio.Event().wait()


async def test_a_result() -> None:
    world = World()

    async def handle(request: messages.Request, timeout_s: float) -> Any:
        assert (type(request), timeout_s) == (messages.WhoAmI, 5.0)
        return messages.Identity("web", "front-end", "key", "", [], [])

    world.handle = handle
    assert (await world.answer())[:2] == (Kind.CONTROL_RESULT, 7)


@pytest.mark.parametrize(
    ("problem", "code"), [(Refused(), ErrorCode.REFUSED), (ZeroDivisionError(), ErrorCode.INTERNAL)]
)
async def test_what_a_handler_raises_ends_its_request_only(problem: Exception, code: ErrorCode) -> None:
    world = World()

    async def handle(request: messages.Request, timeout_s: float) -> Any:
        raise problem

    world.handle = handle
    assert await world.error() == code


async def test_a_document_that_is_no_request() -> None:
    assert await World().error(b"{}") == ErrorCode.BAD_REQUEST


async def test_the_deadline() -> None:
    world = World()
    world.handle = never_ends
    assert await world.error(deadline_ms=10) == ErrorCode.DEADLINE


@pytest.mark.parametrize("steps", [0, 1, 2])
async def test_a_cancelled_request_is_answered(steps: int) -> None:
    """Also if it comes with its cancellation in one piece, and was never begun."""
    world = World()
    world.handle = never_ends
    world.requests.start(7, 5_000, DOCUMENT)
    for _ in range(steps):
        await asyncio.sleep(0)
    world.requests.cancel(7)
    await world.finish()
    ((kind, request_id, body),) = FrameDecoder(MAX_ANSWER_LENGTH).feed(world.written)
    assert (kind, request_id, error_code(body)) == (Kind.ERROR, 7, ErrorCode.DEADLINE)
    world.requests.cancel(7)


async def test_a_result_that_no_client_accepts() -> None:
    world = World()

    async def handle(request: messages.Request, timeout_s: float) -> Any:
        return messages.PemDocument("x" * MAX_RESULT_BYTES)

    world.handle = handle
    assert await world.error() == ErrorCode.BAD_REQUEST


async def test_the_number_of_open_requests_is_limited() -> None:
    world = World()
    world.handle = never_ends
    for number in range(1, MAX_CONTROL_REQUESTS + 1):
        assert not world.requests.full
        world.requests.start(number, 5_000, DOCUMENT)
    assert world.requests.full
    world.requests.cancel_all()
    await world.finish()
