"""The worker's loop: frames in, one use of a key after the other, answers out.

Jobs are carried out in groups, because each write wakes the front and each wake-up costs both sides their caches: one P-256
signature at a time takes half as much CPU again as sixteen together. Nothing waits for a group to fill: it is taken from the
jobs at hand, and is at most half of them (or four), so that a single request is answered at once and front and worker keep each
other busy. It is also at most what the token is expected to do in a millisecond or in an eighth of the time that all
jobs at hand take, judged by how long the key took so far: RSA goes one by one until eight or more wait.
"""

from __future__ import annotations

import socket
from time import monotonic
from typing import Any

from hsmd.daemon.ipc import worker_messages
from hsmd.daemon.ipc.progress import ProgressPage
from hsmd.daemon.worker.control import ControlOperations
from hsmd.daemon.worker.key_index import KeyIndex
from hsmd.daemon.worker.operations import OpenKey, Operation
from hsmd.daemon.worker.signatures import FaultySignature
from hsmd.errors import DeadlineExceeded, HsmdError, ProtocolError, PurposeMismatch, Refused, TokenFailure
from hsmd.pkcs11.errors import Fault, classify, name_of
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
"""Expected duration of a group of jobs..."""
GROUP_SHARE = 1 / 8
"""... or, if that is longer, this share of what all jobs at hand are expected to take."""
SMALL_GROUP = 4
"""So few jobs are not split: waking the front twice would cost more than the first answer gains."""
MAX_UNCLEAR_IN_A_ROW = 8
"""A token that answers nothing but general errors gets a fresh session even though its probe succeeds."""


_Prepared = tuple[int, int, OpenKey, Operation, Any]
"""(number of the operation, request id, key, operation, what its `prepare` returned)"""


class Recycle(Exception):
    """The session or the module is in doubt: this worker ends, another one begins."""


class WorkerLoop:
    """Serves one socket. `desk` is there in a control worker, which answers control requests and uses no key."""

    def __init__(
        self,
        front: socket.socket,
        inventory: KeyIndex,
        progress: ProgressPage,
        session: Any,
        desk: ControlOperations | None,
    ) -> None:
        self._front = front
        self._inventory = inventory
        self._counters = progress.counters
        self._session = session
        self._desk = desk
        self._decoder = FrameDecoder(MAX_REQUEST_LENGTH)
        self._answers: list[bytes] = []
        self._number = 0
        self._unclear = 0
        self._recycle = ""

    def run(self) -> None:
        """Until the front closes the socket. Raises Recycle, ProtocolError, or OSError when the front has gone."""
        receive, feed = self._front.recv, self._decoder.feed
        while data := receive(READ_BYTES):
            self._work(feed(data), monotonic())
            self._flush()

    def _work(self, batch: list[frames.Frame], received: float) -> None:
        group: list[_Prepared] = []
        expected_s = 0.0
        most = max(SMALL_GROUP, (len(batch) + 1) // 2)
        for kind, request_id, body in batch:
            if kind != Kind.KEY_OPERATION or self._desk is not None:
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
        if self._recycle:
            raise Recycle(self._recycle)

    # --- using keys ---

    def _prepare(self, request_id: int, body: bytes, received: float) -> _Prepared | None:
        """Check a job and prepare it; None if it was answered with an error at once.

        Every key operation counts, used or refused: the front counts the same way.
        """
        number = self._number = self._number + 1
        deadline_ms, purpose, scheme, digest, data = decode_key_operation(body)
        if monotonic() - received >= deadline_ms / 1000:
            self._answers.append(encode_error(request_id, DeadlineExceeded()))
            return None
        try:
            key = self._inventory.keys.get(digest) or self._find(digest)
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

        A failure interrupts the group: if the session turns out to be in doubt, the rest has not begun.
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
            # Quick to believe that a key is fast: a longer time may be the scheduler's, not the token's.
            key.pace_s = pace_s if pace_s < key.pace_s else key.pace_s + (pace_s - key.pace_s) / 32
            self._answers.append(self._answer(request_id, key, operation, prepared, result))
        self._flush()

    def _answer(
        self, request_id: int, key: OpenKey, operation: Operation, prepared: Any, result: bytes | Exception
    ) -> bytes:
        """The answer frame; empty if the session is in doubt.

        Then this worker ends without an answer: whether the token finished is unknown, and the front has the operation
        done once more by another worker. A faulty signature is answered: nobody asks such a token again unseen.
        """
        try:
            if isinstance(result, Exception):
                raise result
            answer = operation.finish(prepared, result)
        except FaultySignature as error:
            self._recycle = error.detail
            alarm = worker_messages.encode(
                worker_messages.Faulty(key.ceiling.half.digest.hex(), error.detail)
            )
            answer = encode_error(request_id, TokenFailure("the token made a faulty signature"))
            return encode(Kind.EVENT, 0, alarm) + answer
        except Exception as error:
            failure = self._failure(error, key.ceiling.half.digest)
            return b"" if self._recycle else encode_error(request_id, failure)
        self._unclear = 0
        return encode(Kind.RESULT, request_id, answer)

    def _find(self, digest: bytes) -> OpenKey:
        """A key that was not known so far. Raises Refused, or TokenFailure if the token cannot be searched."""
        try:
            key = self._inventory.find(digest)
        except Exception as error:
            self._recycle = f"looking for keys failed: {name_of(error)}"
            raise TokenFailure(detail=self._recycle) from None
        if key is None:
            raise Refused(detail="no such key with a ceiling")
        return key

    def _look_again(self) -> None:
        try:
            self._inventory.scan()
        except Exception as error:
            self._recycle = f"looking for keys failed: {name_of(error)}"

    def _failure(self, error: Exception, digest: bytes) -> HsmdError:
        """What the caller hears of a failed use; decides too whether the worker goes on."""
        fault = classify(error)
        if fault is Fault.KEY_GONE:
            return self._key_gone(digest)
        if fault is Fault.UNCLEAR:
            self._unclear += 1
        if fault is Fault.POISONED or (fault is Fault.UNCLEAR and not self._session_works()):
            self._recycle = name_of(error)
        return TokenFailure()

    def _key_gone(self, digest: bytes) -> HsmdError:
        """The handle became invalid: the key was destroyed, or else the session is in doubt."""
        try:
            self._inventory.scan()
        except Exception as error:
            self._recycle = f"looking for keys failed: {name_of(error)}"
            return TokenFailure()
        if digest in self._inventory.keys:
            self._recycle = "a handle became invalid, but its key is there"
            return TokenFailure()
        if not self._inventory.keys:
            # Destroyed keys are announced; all of them gone at once looks like a token that went away. A fresh start will tell.
            self._recycle = "the token shows none of its keys any more"
            return TokenFailure()
        return Refused(detail="the key is gone")

    def _session_works(self) -> bool:
        if self._unclear >= MAX_UNCLEAR_IN_A_ROW:
            return False
        try:
            self._session.generate_random(64)
        except Exception:
            return False
        return True

    def _probe(self) -> bytes:
        """Ask the token something of our own, of each part that signing needs: slot, session, object of a key."""
        fault = ""
        try:
            self._session.token.slot.get_token()
            self._session.generate_random(64)
            self._inventory.check()
        except Exception as error:
            fault = self._recycle = f"a probe of the token failed: {name_of(error)}"
        return encode(Kind.EVENT, 0, worker_messages.encode(worker_messages.Probed(fault)))

    # --- everything else ---

    def _other(self, kind: int, request_id: int, body: bytes) -> bytes:
        if kind == Kind.EVENT:
            if body == worker_messages.PROBE:
                return self._probe()
            # The front says that keys came or went; which ones is for the token to tell.
            self._look_again()
            return b""
        if kind == Kind.CONTROL_REQUEST and self._desk is not None:
            return self._control(self._desk, request_id, body)
        raise ProtocolError(f"a frame of kind 0x{kind:02x} is not for this worker")

    def _control(self, desk: ControlOperations, request_id: int, body: bytes) -> bytes:
        _, document = frames.decode_control_request(body)
        try:
            result = desk.handle(worker_messages.decode_request(document))
        except HsmdError as error:
            return encode_error(request_id, error)
        except Exception as error:
            fault = classify(error)
            if fault is Fault.POISONED or (fault is Fault.UNCLEAR and not self._session_works()):
                self._recycle = name_of(error)
            return encode_error(request_id, TokenFailure(f"the token refused: {name_of(error)}"))
        return encode(Kind.CONTROL_RESULT, request_id, worker_messages.encode(result))  # type: ignore[arg-type]
