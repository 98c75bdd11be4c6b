"""Requests to a token's control worker: one at a time, each with a deadline, across replacements of the worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import msgspec

from hsmd.daemon.front.tokens.worker_channel import WorkerChannel
from hsmd.daemon.ipc.worker_messages import TokenRequest, encode
from hsmd.errors import DeadlineExceeded, ProtocolError, TokenFailure
from hsmd.protocol.frames import MAX_DEADLINE_MS, Frame, Kind, decode_error, encode_control_request

PATIENCE_S = 10.0
"""A worker that had this long for a request, or half of the request's time, is replaced if it has not answered then."""


class ControlChannel:
    """Sends requests to the control worker that there is at the time."""

    def __init__(
        self, *, event: Callable[[WorkerChannel, bytes], None], lost: Callable[[WorkerChannel, str], None]
    ) -> None:
        """`event` takes what the worker reports by itself; `lost` is called with a worker to replace, and why."""
        self._event = event
        self._lost = lost
        self._turn = asyncio.Lock()
        self._ready = asyncio.Event()
        self._next_id = 0
        self._waiting: tuple[int, asyncio.Future[bytes]] | None = None
        self.worker: WorkerChannel | None = None

    async def ask(
        self,
        request: TokenRequest,
        timeout_s: float,
        around: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> Any:
        """The answer to one request. Raises DeadlineExceeded, TokenFailure if the worker is lost, or its error.

        `around` is entered when it is this request's turn, and left when it is over.

        A worker that has been sent the request and does not answer in time is replaced, because it may hang; not if most of
        the time was over before the worker was free or ready.
        """
        now = asyncio.get_running_loop().time
        handed_over_at: float | None = None
        try:
            async with asyncio.timeout(max(timeout_s, 0)), self._turn:
                await self._until_ready()
                async with around():
                    await self._until_ready()  # the worker may have been lost meanwhile
                    handed_over_at = now()
                    answer = await self._exchange(request, timeout_s)
        except TimeoutError:
            if handed_over_at is None:
                raise DeadlineExceeded("no control worker was free in time") from None
            if now() - handed_over_at >= min(PATIENCE_S, timeout_s / 2):
                self.lose("it did not answer in time")
            raise DeadlineExceeded(
                "the token did not do it in time; check what is there before asking again"
            ) from None
        try:
            return msgspec.json.decode(answer, type=request.Result)
        except msgspec.MsgspecError as error:
            raise TokenFailure(detail=f"control worker: {error}") from None

    async def _until_ready(self) -> None:
        while not self._ready.is_set():
            await self._ready.wait()

    def attach(self, worker: WorkerChannel) -> None:
        """Use a control worker that was started, in place of the one before it if there is one."""
        self._give_up("another control worker replaces it")
        self.worker = worker
        worker.watch(self._readable)

    def lose(self, why: str) -> None:
        """Give the control worker up, and report it as lost."""
        worker = self.worker
        if worker is not None:
            self._give_up(why)
            self._lost(worker, why)

    def close(self) -> None:
        """Give everything up."""
        self._give_up("the daemon stops")

    def _readable(self, worker: WorkerChannel) -> None:
        try:
            received = worker.receive()
            for frame in received or []:
                self._take(worker, frame)
        except ProtocolError as error:
            self.lose(f"it broke the protocol: {error.text}")
            return
        if received is None:
            self.lose("it ended")

    def _take(self, worker: WorkerChannel, frame: Frame) -> None:
        """Handle an event or an answer; an answer that is no longer waited for is dropped. Raises ProtocolError."""
        kind, request_id, body = frame
        if kind == Kind.EVENT:
            self._event(worker, body)
            if worker.ready is not None:
                self._ready.set()
            return
        if kind not in (Kind.CONTROL_RESULT, Kind.ERROR):
            raise ProtocolError(f"a frame of kind 0x{kind:02x} from a control worker")
        if self._waiting is None or self._waiting[0] != request_id or self._waiting[1].done():
            return
        if kind == Kind.ERROR:
            self._waiting[1].set_exception(decode_error(body))
        else:
            self._waiting[1].set_result(body)

    def _give_up(self, why: str) -> None:
        """Close the worker, and fail the request that waits for its answer."""
        if self.worker is not None:
            self.worker.close()
            self.worker.progress.close()
            self.worker = None
        self._ready.clear()
        if self._waiting is not None and not self._waiting[1].done():
            text = "the token worker was lost during the operation; check what is there before asking again"
            self._waiting[1].set_exception(TokenFailure(text, detail=why))

    async def _exchange(self, request: TokenRequest, timeout_s: float) -> bytes:
        assert self.worker is not None
        self._next_id += 1
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting = (self._next_id, future)
        deadline_ms = max(1, min(int(timeout_s * 1000), MAX_DEADLINE_MS))
        self.worker.send(encode_control_request(self._next_id, deadline_ms, encode(request)))
        try:
            return await future
        finally:
            self._waiting = None
