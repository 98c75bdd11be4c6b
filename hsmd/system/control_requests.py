"""The control requests that one session of a server is carrying out, each in a task with a deadline; for daemon and agent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from hsmd import observe
from hsmd.errors import BadRequest, DeadlineExceeded, HsmdError, InternalFault
from hsmd.protocol import messages
from hsmd.protocol.frames import ID_AND_KIND_BYTES, MAX_ANSWER_LENGTH, Kind, encode, encode_error
from hsmd.system.intake import Intake, paying

MAX_CONTROL_REQUESTS = 8
"""Control requests that one session may have open: operators and scripts make a few at a time."""
MAX_CONTROL_REQUESTS_OF_CLIENT = 32
"""Control requests that all sessions of one client may have open: their answers can be long."""
ANSWER_BYTE = 0.01
"""What each byte of an answer costs a client, in microseconds: to collect, to encode, to encrypt and to send it."""
MAX_RESULT_BYTES = MAX_ANSWER_LENGTH - ID_AND_KIND_BYTES
"""The longest document that every client accepts in a frame."""

CarryOut = Callable[[messages.Request, float], Awaitable[Any]]
"""Carries out one request within so many seconds and returns its result. Raises HsmdError."""

log = observe.logger()


class ControlRequests:
    """Calls `carry_out` for each request and `answer` with the frame that answers it; `peer` is added to log events.

    `intake` is the client's: it counts the open requests of all its sessions, and pays for the answers.
    """

    def __init__(
        self,
        carry_out: CarryOut,
        answer: Callable[[bytes], None],
        *,
        intake: Intake | None = None,
        **peer: Any,
    ) -> None:
        self.open: dict[int, asyncio.Task[bytes]] = {}
        self.started = 0
        """How many were started, all in all."""
        self._intake = intake
        self._carry_out = carry_out
        self._answer = answer
        self._peer = peer

    @property
    def full(self) -> bool:
        """Whether no further request may be started."""
        intake = self._intake
        return len(self.open) >= MAX_CONTROL_REQUESTS or (
            intake is not None and intake.control_requests >= MAX_CONTROL_REQUESTS_OF_CLIENT
        )

    def start(self, request_id: int, deadline_ms: int, document: bytes) -> None:
        """Carry out the request in `document` (JSON). `answer` is called exactly once, never from within this call."""
        answer = self._answer_to(request_id, deadline_ms / 1000, document)
        task = self.open[request_id] = asyncio.get_running_loop().create_task(answer)
        self.started += 1
        if self._intake is not None:
            self._intake.control_requests += 1
        task.add_done_callback(
            partial(self._done, request_id)
        )  # called also if cancelled before its first step

    def cancel(self, request_id: int) -> None:
        """Stop carrying out a request; it is answered DeadlineExceeded. No effect if it is not open."""
        task = self.open.get(request_id)
        if task is not None:
            task.cancel()

    def cancel_all(self) -> None:
        """Stop carrying out all requests."""
        for task in self.open.values():
            task.cancel()

    def _done(self, request_id: int, task: asyncio.Task[bytes]) -> None:
        del self.open[request_id]
        cancelled = task.cancelled()
        frame = encode_error(request_id, DeadlineExceeded("cancelled")) if cancelled else task.result()
        if self._intake is not None:
            self._intake.control_requests -= 1
            self._intake.spend(len(frame) * ANSWER_BYTE)
        self._answer(frame)

    async def _answer_to(self, request_id: int, timeout_s: float, document: bytes) -> bytes:
        paying.set(self._intake)
        try:
            async with asyncio.timeout(timeout_s):
                request = messages.decode_request(document)
                result = await self._carry_out(request, timeout_s)
                return _result_frame(request_id, messages.encode_result(result))
        except TimeoutError:
            return encode_error(request_id, DeadlineExceeded())
        except HsmdError as error:
            if error.detail:
                log.warning("control.failed", **self._peer, error=error.text, detail=error.detail)
            return encode_error(request_id, error)
        except Exception:  # a bug in a handler ends one request, not the session
            log.exception("control.fault", **self._peer)
            return encode_error(request_id, InternalFault())


def _result_frame(request_id: int, document: bytes) -> bytes:
    if len(document) > MAX_RESULT_BYTES:
        return encode_error(
            request_id, BadRequest("limit: the answer would be too long; ask for fewer at a time")
        )
    return encode(Kind.CONTROL_RESULT, request_id, document)
