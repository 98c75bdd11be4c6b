"""Control requests of a session: exactly one answer each, for any behaviour of the handler."""

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


class Harness:
    """Requests with a handler that the test replaces."""

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
        assert self.written == b"", "an answer was sent from within start"
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


async def test_a_result_is_sent() -> None:
    harness = Harness()

    async def handle(request: messages.Request, timeout_s: float) -> Any:
        assert (type(request), timeout_s) == (messages.WhoAmI, 5.0)
        return messages.Identity("web", "front-end", "key", "", [], [])

    harness.handle = handle
    assert (await harness.answer())[:2] == (Kind.CONTROL_RESULT, 7)


@pytest.mark.parametrize(
    ("problem", "code"), [(Refused(), ErrorCode.REFUSED), (ZeroDivisionError(), ErrorCode.INTERNAL)]
)
async def test_an_exception_of_a_handler_ends_only_its_request(problem: Exception, code: ErrorCode) -> None:
    harness = Harness()

    async def handle(request: messages.Request, timeout_s: float) -> Any:
        raise problem

    harness.handle = handle
    assert await harness.error() == code


async def test_an_invalid_document_is_refused() -> None:
    assert await Harness().error(b"{}") == ErrorCode.BAD_REQUEST


async def test_a_request_ends_at_its_deadline() -> None:
    harness = Harness()
    harness.handle = never_ends
    assert await harness.error(deadline_ms=10) == ErrorCode.DEADLINE


@pytest.mark.parametrize("steps", [0, 1, 2])
async def test_a_cancelled_request_is_answered(steps: int) -> None:
    """Also if it arrives together with its cancellation and was never begun."""
    harness = Harness()
    harness.handle = never_ends
    harness.requests.start(7, 5_000, DOCUMENT)
    for _ in range(steps):
        await asyncio.sleep(0)
    harness.requests.cancel(7)
    await harness.finish()
    ((kind, request_id, body),) = FrameDecoder(MAX_ANSWER_LENGTH).feed(harness.written)
    assert (kind, request_id, error_code(body)) == (Kind.ERROR, 7, ErrorCode.DEADLINE)
    harness.requests.cancel(7)


async def test_a_result_too_long_for_any_client_is_an_error() -> None:
    harness = Harness()

    async def handle(request: messages.Request, timeout_s: float) -> Any:
        return messages.PemDocument("x" * MAX_RESULT_BYTES)

    harness.handle = handle
    assert await harness.error() == ErrorCode.BAD_REQUEST


async def test_the_number_of_open_requests_is_limited() -> None:
    harness = Harness()
    harness.handle = never_ends
    for number in range(1, MAX_CONTROL_REQUESTS + 1):
        assert not harness.requests.full
        harness.requests.start(number, 5_000, DOCUMENT)
    assert harness.requests.full
    harness.requests.cancel_all()
    await harness.finish()
