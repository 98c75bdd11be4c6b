"""The worker's loop: receives requests from the front, uses keys one after the other, and sends the answers.

Jobs are done in groups, because each write wakes the front and each wake-up costs both sides their caches: one P-256
signature at a time takes half as much CPU again as sixteen together. A group is taken from the jobs at hand; the loop never
waits to fill one. It is at most half of the jobs at hand (or four), so that a single request is answered at once and front
and worker keep each other busy, and at most what the token is expected to do in a millisecond or in an eighth of the time
of all jobs at hand, judged by the key's previous uses: RSA jobs are answered one by one until eight or more are at hand.
"""

from __future__ import annotations

import socket
from collections import deque
from socket import MSG_DONTWAIT
from time import monotonic
from typing import Any

from hsmd.daemon.ipc import worker_messages
from hsmd.daemon.ipc.progress import ProgressPage
from hsmd.daemon.worker.backend import Backend, Key
from hsmd.daemon.worker.control import ControlOperations
from hsmd.daemon.worker.operations import Operation
from hsmd.daemon.worker.session_guard import SessionGuard
from hsmd.daemon.worker.signatures import FaultySignature
from hsmd.errors import DeadlineExceeded, HsmdError, ProtocolError, PurposeMismatch, Refused, TokenFailure
from hsmd.pkcs11.search import Slices
from hsmd.protocol import frames
from hsmd.protocol.channel import FrameDecoder
from hsmd.protocol.frames import (
    MAX_REQUEST_LENGTH,
    Kind,
    decode_key_operation,
    encode,
    encode_error,
)

READ_BYTES = 65_536
GROUP_S = 1e-3
"""Longest expected duration of a group of jobs..."""
GROUP_SHARE = 1 / 8
"""... or, if that is longer, this share of the expected duration of all jobs at hand."""
SMALL_GROUP = 4
"""A group this small is not split: waking the front twice would cost more than the first answer gains."""
MANY_NEW_KEYS = 4
"""More keys than these are looked for in one search of the whole token: each one by itself takes two searches."""


_Prepared = tuple[int, int, Key, Operation, Any]
"""(number of the operation, request id, key, operation, what its `prepare` returned)"""


class Recycle(Exception):
    """The session or the module may be faulty: this worker exits and another one is started."""


class WorkerLoop:
    """Serves one socket. A control worker has `control`, answers control requests and uses no key; others use keys."""

    def __init__(
        self,
        front: socket.socket,
        backend: Backend,
        progress: ProgressPage,
        control: ControlOperations | None,
    ) -> None:
        self._front = front
        self._backend = backend
        self._progress = progress
        self._counters = progress.counters
        self._guard = SessionGuard(backend)
        self._control = control
        self._decoder = FrameDecoder(MAX_REQUEST_LENGTH)
        self._answers: list[bytes] = []
        self._searches: deque[tuple[Slices[None], worker_messages.LookUp | None]] = deque()
        self._number = 0

    def run(self) -> None:
        """Run until the front closes the socket. Raises Recycle, ProtocolError, or OSError if the front is gone."""
        receive, feed = self._front.recv, self._decoder.feed
        while True:
            try:
                data = receive(READ_BYTES, MSG_DONTWAIT if self._searches else 0)
            except BlockingIOError:
                self._search()
                continue
            if not data:
                return
            self._work(feed(data), monotonic())
            self._flush()
            if self._searches:
                self._search()

    def _work(self, batch: list[frames.Frame], received: float) -> None:
        group: list[_Prepared] = []
        expected_s = 0.0
        most = max(SMALL_GROUP, (len(batch) + 1) // 2)
        for kind, request_id, body in batch:
            if kind != Kind.KEY_OPERATION or self._control is not None:
                self._answers.append(self._other(kind, request_id, body))
                continue
            prepared = self._prepare(request_id, body, received)
            if prepared is None:
                continue
            pace_s = prepared[2].pace_s
            limit_s = max(GROUP_S, pace_s * len(batch) * GROUP_SHARE)
            if group and (expected_s + pace_s > limit_s or len(group) == most):
                self._carry_out(group)
                group, expected_s = [], 0.0
            group.append(prepared)
            expected_s += pace_s
        if group:
            self._carry_out(group)

    def _flush(self) -> None:
        if self._answers:
            self._front.sendall(b"".join(self._answers))
            self._answers.clear()
        if self._guard.recycle:
            raise Recycle(self._guard.recycle)

    # --- using keys ---

    def _prepare(self, request_id: int, body: bytes, received: float) -> _Prepared | None:
        """Check a job and prepare it; None if it was answered with an error at once.

        Every key operation is numbered, whether the key is used or not, because the front numbers them the same way.
        """
        number = self._number = self._number + 1
        deadline_ms, purpose, scheme, digest, data = decode_key_operation(body)
        if monotonic() - received >= deadline_ms / 1000:
            self._answers.append(encode_error(request_id, DeadlineExceeded()))
            return None
        try:
            key = self._backend.keys.get(digest) or self._find(digest)
            operation = key.operations.get((purpose, scheme))
            if operation is None:
                raise key.refusal(purpose, scheme, data)
            key.check(purpose, scheme, data)
        except (PurposeMismatch, Refused, TokenFailure) as error:
            self._answers.append(encode_error(request_id, error))
            return None
        return number, request_id, key, operation, operation.prepare(data)

    def _carry_out(self, group: list[_Prepared]) -> None:
        """Use the keys one after the other, then finish and send all answers.

        A failure interrupts the group: if it makes the worker exit, the jobs behind it have not begun.
        """
        counters = self._counters
        results: list[bytes | Exception] = []
        begun = monotonic()
        for number, _, _, (_, use, _), prepared in group:
            counters[ProgressPage.STARTED] = number
            if counters[ProgressPage.FENCE]:
                raise Recycle("the front has given this worker up")
            try:
                results.append(use(prepared))
            except Exception as error:
                results.append(error)
                break
            finally:
                counters[ProgressPage.FINISHED] = number
        self._finish(group, results, (monotonic() - begun) / len(results))
        if len(results) < len(group):
            self._carry_out(group[len(results) :])

    def _finish(self, group: list[_Prepared], results: list[bytes | Exception], pace_s: float) -> None:
        for (_, request_id, key, operation, prepared), result in zip(group, results, strict=False):
            # A shorter time counts at once, a longer one slowly: it may be due to the scheduler, not to the token.
            key.pace_s = pace_s if pace_s < key.pace_s else key.pace_s + (pace_s - key.pace_s) / 32
            self._answers.append(self._answer(request_id, key, operation, prepared, result))
        self._flush()

    def _answer(
        self, request_id: int, key: Key, operation: Operation, prepared: Any, result: bytes | Exception
    ) -> bytes:
        """The answer frame; empty if the worker must exit after a failure.

        Whether the token finished is unknown in that case, and the front has another worker do the operation once more. A
        faulty signature is answered, so that an operator sees it before the token is used again.
        """
        try:
            if isinstance(result, Exception):
                raise result
            answer = operation.finish(prepared, result)
        except FaultySignature as error:
            self._guard.recycle = error.detail
            answer = encode_error(request_id, TokenFailure("the token made a faulty signature"))
            return _event(worker_messages.Faulty(key.digest.hex(), error.detail)) + answer
        except Exception as error:
            failure = self._guard.use_failed(error, key.digest)
            return b"" if self._guard.recycle else encode_error(request_id, failure)
        self._guard.succeeded()
        return encode(Kind.RESULT, request_id, answer)

    # --- searches for keys, between other work ---

    def _find(self, digest: bytes) -> Key:
        """A key that is not open. Raises Refused, TokenFailure."""
        with self._progress.slice_of_search():
            return self._guard.find(digest)

    def _search(self) -> None:
        """Do the next slice of the oldest search; its end is reported if the front asked for it."""
        search, asked = self._searches[0]
        with self._progress.slice_of_search():
            ended = self._guard.advance(search)
        if ended:
            self._searches.popleft()
            if asked is not None:
                missing = [key for key in asked.keys if bytes.fromhex(key) not in self._backend.keys]
                self._answers.append(_event(worker_messages.LookedUp(missing)))
        self._flush()

    def _looking_up(self, keys: list[str]) -> Slices[None]:
        if len(keys) > MANY_NEW_KEYS:
            yield from self._backend.scanning()
            return
        for key in keys:
            yield from self._backend.looking_up(bytes.fromhex(key))
            yield

    def _forgetting(self, keys: list[str]) -> Slices[None]:
        for key in keys:
            self._backend.forget(bytes.fromhex(key))
        yield

    # --- everything else ---

    def _other(self, kind: int, request_id: int, body: bytes) -> bytes:
        if kind == Kind.EVENT:
            return self._notice(body)
        if kind == Kind.CONTROL_REQUEST and self._control is not None:
            return self._handle_control(self._control, request_id, body)
        raise ProtocolError(f"a frame of kind 0x{kind:02x} is not for this worker")

    def _notice(self, body: bytes) -> bytes:
        """Take what the front tells; return what is to be answered at once. Searches are done in the order of their notices."""
        if body == worker_messages.PROBE:
            return _event(worker_messages.Probed(self._guard.probe()))
        if body == worker_messages.KEYS_CHANGED:
            with self._progress.slice_of_search():
                self._guard.rescan()  # the next job may be for a new key
            return b""
        match notice := worker_messages.decode_notice(body):
            case worker_messages.LookUp():
                self._searches.append((self._looking_up(notice.keys), notice))
            case worker_messages.Forget():
                self._searches.append((self._forgetting(notice.keys), None))
        return b""

    def _handle_control(self, control: ControlOperations, request_id: int, body: bytes) -> bytes:
        _, document = frames.decode_control_request(body)
        try:
            result = control.handle(worker_messages.decode_request(document))
        except HsmdError as error:
            self._guard.recycle = self._guard.recycle or control.outdated
            return encode_error(request_id, error)
        except Exception as error:
            return encode_error(request_id, self._guard.control_failed(error))
        return encode(Kind.CONTROL_RESULT, request_id, worker_messages.encode(result))  # type: ignore[arg-type]


def _event(event: worker_messages.AnyEvent) -> bytes:
    return encode(Kind.EVENT, 0, worker_messages.encode(event))
