"""The worker's loop with operations that the test defines: which errors recycle a worker, and which jobs have begun by then."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pkcs11
import pytest
from msgspec import Struct

from hsmd.daemon.ipc import worker_messages
from hsmd.daemon.ipc.progress import ProgressPage
from hsmd.daemon.ipc.worker_messages import Forget, LookedUp, LookUp
from hsmd.daemon.worker import loop
from hsmd.daemon.worker.loop import Recycle, WorkerLoop
from hsmd.daemon.worker.operations import OpenKey, Operation
from hsmd.daemon.worker.session_guard import MAX_UNCLEAR_IN_A_ROW
from hsmd.daemon.worker.signatures import FaultySignature, WrongKey
from hsmd.errors import ErrorCode, ProtocolError
from hsmd.protocol import frames
from hsmd.protocol.channel import FrameDecoder
from hsmd.protocol.frames import Kind
from tests.support.fake_backend import FakeBackend

KEY = bytes(32)
POISON = [
    pkcs11.SessionHandleInvalid(),
    pkcs11.DeviceError(),
    pkcs11.DeviceRemoved(),
    pkcs11.OperationActive(),
    pkcs11.UserNotLoggedIn(),
    pkcs11.HostMemory(),
    pkcs11.PKCS11Error("Unmapped error code 0x190"),
    ValueError("an internal error"),
]
HARMLESS = [pkcs11.DataLenRange(), pkcs11.MechanismInvalid(), pkcs11.PKCS11Error("Unmapped error code 0x68")]


class Rig:
    """A loop over a socket pair; `use` is the token. The key is open, but the next search does not find it."""

    def __init__(
        self, use: Callable[[bytes], bytes], finish: Callable[[bytes, bytes], bytes] | None = None
    ) -> None:
        self.front, worker = socket.socketpair()
        self.worker = worker
        self.progress = ProgressPage(ProgressPage.create())
        operation = Operation(bytes, use, finish or (lambda prepared, raw: raw))
        ceiling: Any = SimpleNamespace(half=SimpleNamespace(digest=KEY))
        self.key = OpenKey(ceiling, 1, lambda purpose, scheme, data: None, {(1, 1): operation}, pace_s=100e-6)
        self.backend = FakeBackend()
        self.backend.keys = {KEY: self.key}
        self.loop = WorkerLoop(worker, self.backend, self.progress, None)

    def add_other(self, use: Callable[[bytes], bytes], always: Exception | None = None) -> bytes:
        """Another key that the token shows; with `always`, each of its uses fails."""
        digest = bytes([len(self.backend.keys)]) * 32
        ceiling: Any = SimpleNamespace(half=SimpleNamespace(digest=digest))
        operation = Operation(bytes, use if always is None else _raising(always), lambda prepared, raw: raw)
        self.backend.keys[digest] = OpenKey(ceiling, 2, lambda *_: None, {(1, 1): operation})
        self.backend.held = dict(self.backend.keys)
        return digest

    def all_fail(self, error: Exception) -> None:
        for key in self.backend.keys.values():
            key.operations = {(1, 1): Operation(bytes, _raising(error), lambda prepared, raw: raw)}

    def run(self, *data: bytes) -> list[tuple[int, int, bytes]]:
        """Run the loop on one batch of jobs until the socket is closed; return its answers."""
        jobs = (frames.encode_key_operation(n, 1000, 1, 1, KEY, item) for n, item in enumerate(data, 1))
        return self.run_bytes(b"".join(jobs))

    def run_bytes(self, data: bytes) -> list[tuple[int, int, bytes]]:
        self.front.sendall(data)
        self.front.shutdown(socket.SHUT_WR)
        try:
            self.loop.run()
        finally:
            self.worker.close()
            self.answers = FrameDecoder(1 << 20).feed(self.front.recv(1 << 20))
        return self.answers

    def errors(self) -> dict[int, int]:
        return {
            request_id: int(frames.decode_error(body).code)
            for kind, request_id, body in self.answers
            if kind == Kind.ERROR
        }

    def close(self) -> None:
        self.front.close()
        self.worker.close()


def _raising(error: Exception) -> Callable[[bytes], bytes]:
    def use(data: bytes) -> bytes:
        raise error

    return use


@pytest.fixture
def make() -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make_rig(*arguments: Any) -> Rig:
        rigs.append(Rig(*arguments))
        return rigs[-1]

    yield make_rig
    for rig in rigs:
        rig.close()


def failing(error: Exception, at: bytes = b"bad") -> Callable[[bytes], bytes]:
    def use(data: bytes) -> bytes:
        if data == at:
            raise error
        return data

    return use


@pytest.mark.parametrize("error", POISON, ids=lambda error: f"{type(error).__name__} {error}")
def test_a_doubtful_session_ends_the_worker_and_later_jobs_have_not_begun(make, error: Exception) -> None:
    rig = make(failing(error))
    with pytest.raises(Recycle):
        rig.run(b"one", b"bad", b"three", b"four", b"five")
    # Request 2 has begun and gets no answer: the front gives it to another worker.
    assert [request_id for _, request_id, _ in rig.answers] == [1]
    assert (rig.progress.started, rig.progress.finished) == (2, 2)


@pytest.mark.parametrize(
    "error", [*HARMLESS, pkcs11.GeneralError(), pkcs11.FunctionFailed()], ids=lambda error: f"{error!r}"
)
def test_errors_that_a_caller_can_cause_recycle_no_worker(make, error: Exception) -> None:
    rig = make(failing(error))
    rig.run(b"one", b"bad", b"three", b"bad", b"five")
    assert {request_id for _, request_id, _ in rig.answers} == {1, 2, 3, 4, 5}
    assert rig.errors() == {2: ErrorCode.TOKEN, 4: ErrorCode.TOKEN}


OF_ONE_KEY = [
    pkcs11.UserNotLoggedIn(),
    pkcs11.PKCS11Error("Unmapped error code 0x80000068"),
    pkcs11.GeneralError(),
    pkcs11.FunctionFailed(),
    pkcs11.KeyHandleInvalid(),
    pkcs11.PKCS11Error("Unmapped error code 0x68"),
    WrongKey(),
]


@pytest.mark.parametrize("error", OF_ONE_KEY, ids=lambda error: f"{type(error).__name__} {error}")
def test_a_key_that_always_fails_ends_no_worker_while_another_works(make, error: Exception) -> None:
    rig = make(failing(error))
    rig.add_other(lambda data: data)
    rig.run(*[b"bad"] * (3 * MAX_UNCLEAR_IN_A_ROW), b"good")
    answered = {request_id for _, request_id, _ in rig.answers}
    assert answered == set(range(1, 3 * MAX_UNCLEAR_IN_A_ROW + 2))
    assert set(rig.errors().values()) == {ErrorCode.TOKEN}
    assert rig.backend.scans <= 1, "a key that fails makes the worker search again and again"


@pytest.mark.parametrize("error", OF_ONE_KEY[:5], ids=lambda error: f"{type(error).__name__} {error}")
def test_a_session_in_which_no_other_key_works_is_replaced(make, error: Exception) -> None:
    rig = make(failing(error))
    rig.add_other(bytes, always=error)
    with pytest.raises(Recycle):
        rig.run(*[b"bad"] * (3 * MAX_UNCLEAR_IN_A_ROW))
    assert len(rig.answers) < MAX_UNCLEAR_IN_A_ROW


def test_a_session_that_breaks_later_is_replaced_at_the_next_key_that_fails(make) -> None:
    rig = make(failing(pkcs11.UserNotLoggedIn()))
    other = rig.add_other(lambda data: data)
    rig.add_other(lambda data: data)
    rig.front.sendall(frames.encode_key_operation(90, 1000, 1, 1, KEY, b"bad"))
    rig.loop._work(FrameDecoder(1 << 20).feed(rig.worker.recv(1 << 16)), time.monotonic())
    assert not rig.loop._guard.recycle
    rig.all_fail(pkcs11.UserNotLoggedIn())
    rig.loop._guard.use_failed(pkcs11.UserNotLoggedIn(), other)
    assert rig.loop._guard.recycle


def test_a_general_error_and_a_failing_probe_recycle(make) -> None:
    rig = make(failing(pkcs11.GeneralError()))
    rig.backend.session_error = pkcs11.GeneralError()
    with pytest.raises(Recycle):
        rig.run(b"bad", b"two")
    assert rig.answers == []


def test_a_series_of_general_errors_recycles(make) -> None:
    rig = make(failing(pkcs11.GeneralError()))
    with pytest.raises(Recycle):
        rig.run(*[b"bad"] * 20)
    assert len(rig.answers) == MAX_UNCLEAR_IN_A_ROW - 1


def test_a_faulty_signature_is_not_returned_and_ends_the_worker(make) -> None:
    def finish(prepared: bytes, raw: bytes) -> bytes:
        if prepared == b"bad":
            raise FaultySignature(detail="flipped bit")
        return raw

    rig = make(lambda data: data, finish)
    with pytest.raises(Recycle, match="flipped bit"):
        rig.run(b"one", b"bad")
    assert rig.errors() == {2: ErrorCode.TOKEN}
    assert all(b"bad" not in body for _, _, body in rig.answers)


def test_a_removed_key_is_refused(make) -> None:
    rig = make(failing(pkcs11.ObjectHandleInvalid()))
    rig.backend.keys[b"\1" * 32] = rig.key
    rig.backend.held = {b"\1" * 32: rig.key}
    rig.run(b"bad", b"after")
    assert rig.errors() == {1: ErrorCode.REFUSED} | ({2: ErrorCode.REFUSED} if 2 in rig.errors() else {})
    assert (rig.backend.lookups, rig.backend.scans) == (1, 0)


def test_a_worker_is_recycled_if_the_token_lost_all_its_keys(make) -> None:
    """SoftHSM reports only invalid handles after its files were moved."""
    rig = make(failing(pkcs11.ObjectHandleInvalid()))
    with pytest.raises(Recycle):
        rig.run(b"bad")
    assert rig.errors() == {}, "the job is left to another worker"


def test_an_invalid_handle_of_an_existing_key_recycles(make) -> None:
    rig = make(failing(pkcs11.KeyHandleInvalid()))
    rig.backend.held = {KEY: rig.key}
    with pytest.raises(Recycle):
        rig.run(b"bad")
    assert rig.answers == []


def test_a_token_that_cannot_be_searched_recycles(make) -> None:
    rig = make(failing(pkcs11.KeyHandleInvalid()))
    rig.backend.search_error = pkcs11.DeviceError()
    with pytest.raises(Recycle):
        rig.run(b"bad")


def test_answers_of_fast_jobs_are_sent_in_groups(make) -> None:
    """The number of writes shows which answers were sent together."""
    writes: list[int] = []
    rig = make(lambda data: data)

    class Socket:
        def sendall(self, data: bytes) -> None:
            writes.append(len(FrameDecoder(1 << 20).feed(data)))

    rig.loop._front = Socket()  # type: ignore[assignment]

    def groups(count: int, pace_s: float) -> list[int]:
        writes.clear()
        body = frames.key_operation_body(1000, 1, 1, KEY, b"x")
        rig.key.pace_s = pace_s
        rig.loop._work([(Kind.KEY_OPERATION, n, body) for n in range(count)], time.monotonic())
        return writes

    fast = loop.GROUP_S / 1000
    assert groups(1, fast) == [1]
    assert groups(4, fast) == [4]
    assert groups(6, fast) == [4, 2]
    assert groups(9, fast) == [5, 4]
    assert groups(4, 1.0)[0] == 1
    assert groups(12, loop.GROUP_S / 3.5)[0] == 3
    assert groups(32, 1.0)[0] == 4


@pytest.mark.parametrize(
    "frame", [frames.encode(Kind.RESULT, 1), frames.encode(Kind.KEY_OPERATION, 1, b""), b"\xff" * 20]
)
def test_malformed_frames_end_the_loop(make, frame: bytes) -> None:
    rig = make(lambda data: data)
    with pytest.raises(ProtocolError):
        rig.run_bytes(frame)


def test_deadlines_are_measured_from_receipt(make, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(1000))
    monkeypatch.setattr(loop, "monotonic", lambda: float(next(ticks)))
    rig = make(lambda data: data)
    rig.run(b"late")
    assert rig.errors() == {1: ErrorCode.DEADLINE}
    assert rig.progress.started == 0


# --- searches between other work ---


def notice(event: Struct) -> bytes:
    return frames.encode(Kind.EVENT, 0, worker_messages.encode(event))


def key_operation(request_id: int) -> bytes:
    return frames.encode_key_operation(request_id, 1000, 1, 1, KEY, b"data")


def searched(rig: Rig, data: bytes, answers: int = 1) -> list[tuple[int, int, bytes]]:
    """Run the loop on this until it has sent so many answers to it, and to an empty look-up behind it."""
    running = threading.Thread(target=rig.loop.run)
    rig.front.sendall(data + notice(LookUp([])))
    running.start()
    rig.front.settimeout(10)
    decoder, found = FrameDecoder(1 << 20), []
    while len(found) <= answers:
        found += decoder.feed(rig.front.recv(1 << 16))
    rig.front.shutdown(socket.SHUT_WR)
    running.join(10)
    assert worker_messages.decode_event(found.pop()[2]) == LookedUp([])
    return found


def test_new_keys_are_looked_up_one_by_one_and_reported(make) -> None:
    rig = make(lambda data: data)
    rig.backend.held = {KEY: rig.key, b"\1" * 32: rig.key}
    ((_, _, body),) = searched(rig, notice(LookUp(["01" * 32, "02" * 32])))
    assert worker_messages.decode_event(body) == LookedUp(["02" * 32])
    assert set(rig.backend.keys) == {KEY, b"\1" * 32}
    assert (rig.backend.scans, rig.backend.lookups) == (0, 2)


def test_many_new_keys_take_one_search(make) -> None:
    rig = make(lambda data: data)
    rig.backend.held = {bytes([number]) * 32: rig.key for number in range(100)}
    searched(rig, notice(LookUp([digest.hex() for digest in rig.backend.held])))
    assert (rig.backend.scans, rig.backend.lookups) == (1, 0)
    assert len(rig.backend.keys) == 100


def test_jobs_are_done_between_slices_of_a_search(make) -> None:
    rig = make(lambda data: data)
    slices = []

    def looking_up(digest: bytes) -> Iterator[None]:
        for number in range(5):
            slices.append(number)
            if number < 3:
                rig.front.sendall(key_operation(number + 1))
            yield

    rig.backend.looking_up = looking_up
    answers = searched(rig, notice(LookUp(["01" * 32])), answers=4)
    assert [(kind, request_id) for kind, request_id, _ in answers] == [
        (Kind.RESULT, 1), (Kind.RESULT, 2), (Kind.RESULT, 3), (Kind.EVENT, 0),
    ]  # fmt: skip
    assert slices == list(range(5))
    assert rig.progress.searches % 2 == 0 and rig.progress.searches >= 10


def test_a_destroyed_key_is_forgotten_without_a_search(make) -> None:
    rig = make(lambda data: data)
    rig.backend.held = {KEY: rig.key}
    assert searched(rig, notice(Forget([KEY.hex()])), answers=0) == []
    assert rig.backend.keys == {}
    assert (rig.backend.scans, rig.backend.lookups) == (0, 0)


def test_a_search_that_fails_ends_the_worker(make) -> None:
    rig = make(lambda data: data)
    rig.backend.search_error = pkcs11.DeviceError()
    with pytest.raises(Recycle):
        rig.run_bytes(notice(LookUp(["01" * 32])))
    assert rig.progress.searches == 2
