"""Requests to the control worker: one at a time, each with a deadline, across replacements of the worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from hsmd.daemon.front.tokens.worker_channel import WorkerChannel
from hsmd.daemon.ipc.worker_messages import TokenRequest, encode
from hsmd.errors import DeadlineExceeded, ProtocolError, TokenFailure
from hsmd.protocol.frames import MAX_DEADLINE_MS, Frame, Kind, decode_error, encode_control_request


class ControlChannel:
    """The way to whichever control worker there is."""

    def __init__(
        self, *, event: Callable[[WorkerChannel, bytes], None], lost: Callable[[WorkerChannel, str], None]
    ) -> None:
        """`event` takes what the worker says by itself; `lost` is told when and why a replacement is wanted."""
        self._event = event
        self._lost = lost
        self._turn = asyncio.Lock()
        self._ready = asyncio.Event()
        self._next_id = 0
        self._waiting: tuple[int, asyncio.Future[bytes]] | None = None
        self.link: WorkerChannel | None = None

    async def ask(self, request: TokenRequest, timeout_s: float) -> Any:
        """The answer to one request. Raises DeadlineExceeded, TokenFailure if the worker is lost, or its error.

        A worker that was given the request and does not answer in time is replaced: it may hang.
        """
        handed_over = False
        try:
            async with asyncio.timeout(max(timeout_s, 0)), self._turn:
                while not self._ready.is_set():
                    await self._ready.wait()
                handed_over = True
                answer = await self._exchange(request, timeout_s)
        except TimeoutError:
            if not handed_over:
                raise DeadlineExceeded("no control worker was free in time") from None
            self.lose("it did not answer in time")
            raise DeadlineExceeded(
                "the token did not do it in time; look what is there before asking again"
            ) from None
        try:
            return msgspec.json.decode(answer, type=request.Result)
        except msgspec.MsgspecError as error:
            raise TokenFailure(detail=f"control worker: {error}") from None

    def attach(self, link: WorkerChannel) -> None:
        """A control worker was started; it takes the place of one that is still there."""
        self._give_up("another control worker took its place")
        self.link = link
        link.watch(self._readable)

    def lose(self, why: str) -> None:
        """Give the control worker up and ask for another one."""
        link = self.link
        if link is not None:
            self._give_up(why)
            self._lost(link, why)

    def close(self) -> None:
        """Give everything up."""
        self._give_up("the daemon stops")

    def _readable(self, link: WorkerChannel) -> None:
        try:
            received = link.receive()
            for frame in received or []:
                self._take(link, frame)
        except ProtocolError as error:
            self.lose(f"it broke the protocol: {error.text}")
            return
        if received is None:
            self.lose("it ended")

    def _take(self, link: WorkerChannel, frame: Frame) -> None:
        """An event, or an answer; an answer that nobody waits for any more is dropped. Raises ProtocolError."""
        kind, request_id, body = frame
        if kind == Kind.EVENT:
            self._event(link, body)
            if link.ready is not None:
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
        """Whoever waits for its answer learns that the worker is gone."""
        if self.link is not None:
            self.link.close()
            self.link.progress.close()
            self.link = None
        self._ready.clear()
        if self._waiting is not None and not self._waiting[1].done():
            text = "the token worker was lost during the operation; look what is there before asking again"
            self._waiting[1].set_exception(TokenFailure(text, detail=why))

    async def _exchange(self, request: TokenRequest, timeout_s: float) -> bytes:
        assert self.link is not None
        self._next_id += 1
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting = (self._next_id, future)
        deadline_ms = max(1, min(int(timeout_s * 1000), MAX_DEADLINE_MS))
        self.link.send(encode_control_request(self._next_id, deadline_ms, encode(request)))
        try:
            return await future
        finally:
            self._waiting = None
