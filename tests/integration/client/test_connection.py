"""A connection to a real daemon: answers, batching, deadlines, cancellation, loss, silence, drain."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from hsmd.client import Connection
from hsmd.client.channel import SILENT_AFTER_S
from hsmd.errors import (
    BadRequest,
    DeadlineExceeded,
    Overloaded,
    PeerError,
    ProtocolError,
    PurposeMismatch,
    Refused,
    Unavailable,
)
from hsmd.protocol.frames import MAX_DATA_BYTES, Kind, decode_error
from hsmd.protocol.messages import KeyList, KeyPage, KeyShow, WhoAmI
from hsmd.purposes import Purpose
from hsmd.system.ssh_profile import session_identifier
from tests.support.fake_daemon import CLIENT, FakeDaemon
from tests.support.polling import eventually

SCHEME = 0x0403
KEY = b"k" * 32


def answer_all(daemon: FakeDaemon) -> None:
    daemon.faults.answer = lambda operation: b"signed " + operation.data


async def use(connection: Connection, data: bytes = b"data", timeout_s: float = 2.0) -> bytes:
    return await connection.use_key(KEY, Purpose.SIGN_MESSAGE, SCHEME, data, timeout_s=timeout_s)


async def test_signature_verifies(daemon: FakeDaemon, connection: Connection) -> None:
    key = daemon.add_key("www")
    signature = await connection.use_key(key.digest, Purpose.SIGN_MESSAGE, SCHEME, b"message", timeout_s=2)
    public = key.private.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(signature, b"message", ec.ECDSA(hashes.SHA256()))
    operation = daemon.operations[0]
    assert (operation.purpose, operation.scheme, operation.key, operation.data) == (
        8,
        SCHEME,
        key.digest,
        b"message",
    )
    assert 1900 <= operation.deadline_ms <= 2000


async def test_control_request_gives_typed_result(daemon: FakeDaemon, connection: Connection) -> None:
    daemon.add_key("www")
    identity = await connection.control(WhoAmI(), timeout_s=2)
    page = await connection.control(KeyList(), timeout_s=2)
    assert identity.client == CLIENT
    assert isinstance(page, KeyPage)
    assert [key.name for key in page.keys] == ["www"]


async def test_a_proof_can_name_the_ssh_connection(daemon: FakeDaemon, connection: Connection) -> None:
    bindings = [session_identifier(each) for each in daemon.connections]
    assert bindings == [connection.channel_binding]
    async with Connection(daemon.endpoint()) as other:
        assert other.channel_binding not in bindings
    with pytest.raises(Unavailable):
        _ = Connection(daemon.endpoint()).channel_binding


async def test_refusals_are_raised_with_their_type(daemon: FakeDaemon, connection: Connection) -> None:
    with pytest.raises(Refused):
        await use(connection)
    with pytest.raises(Refused):
        await connection.control(KeyShow(name="unknown"), timeout_s=2)
    daemon.faults.refuse = PurposeMismatch("64 spaces are missing")
    with pytest.raises(PurposeMismatch, match="64 spaces"):
        await use(connection)
    daemon.faults.refuse = PeerError(999, "from the future")
    with pytest.raises(PeerError) as caught:
        await use(connection)
    assert caught.value.code == 999


async def test_concurrent_requests_each_get_their_own_answer(
    daemon: FakeDaemon, connection: Connection
) -> None:
    answer_all(daemon)
    texts = [b"%d" % number for number in range(400)]
    assert await asyncio.gather(*(use(connection, text) for text in texts)) == [
        b"signed " + text for text in texts
    ]


async def test_frames_of_one_loop_iteration_are_sent_in_one_write(
    daemon: FakeDaemon, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_all(daemon)
    assert connection._channel is not None
    wire = connection._channel._wire
    assert wire is not None
    written: list[bytes] = []
    write = wire.write
    monkeypatch.setattr(wire, "write", lambda data: (written.append(data), write(data)))
    await asyncio.gather(*(use(connection) for _ in range(64)))
    assert len([piece for piece in written if len(piece) > 64 * 50]) == 1


async def test_data_is_accepted_up_to_the_limit(daemon: FakeDaemon, connection: Connection) -> None:
    answer_all(daemon)
    assert await use(connection, b"x" * MAX_DATA_BYTES) == b"signed " + b"x" * MAX_DATA_BYTES
    with pytest.raises(BadRequest, match="1 bytes more"):
        await use(connection, b"x" * (MAX_DATA_BYTES + 1))
    assert await use(connection) == b"signed data"


async def test_key_and_timeout_out_of_range_are_refused_locally(connection: Connection) -> None:
    with pytest.raises(BadRequest, match="key: 31 bytes"):
        await connection.use_key(b"k" * 31, 1, SCHEME, b"", timeout_s=1)
    with pytest.raises(BadRequest, match="timeout_s"):
        await use(connection, timeout_s=61)
    with pytest.raises(DeadlineExceeded):
        await use(connection, timeout_s=0)


# --- deadlines and cancellation ---


async def test_no_request_outlasts_its_deadline(daemon: FakeDaemon, connection: Connection) -> None:
    daemon.faults.hold = True
    for timeout_s in (0.2, 0.05):
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await use(connection, timeout_s=timeout_s)
        assert timeout_s <= time.monotonic() - began + 0.002 < timeout_s + 0.15
    await eventually(lambda: len(daemon.cancelled) == 2)


async def test_a_shorter_deadline_after_longer_ones_holds(daemon: FakeDaemon, connection: Connection) -> None:
    daemon.faults.hold = True
    long = [asyncio.create_task(use(connection, timeout_s=30)) for _ in range(5)]
    await asyncio.sleep(0)
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await use(connection, timeout_s=0.05)
    assert time.monotonic() - began < 0.3
    answer_all(daemon)
    daemon.release()
    assert await asyncio.gather(*long) == [b"signed data"] * 5


async def test_late_answers_are_dropped_and_free_their_request_ids(tmp_path: Path) -> None:
    daemon = await FakeDaemon(tmp_path, max_open=4).start()
    async with Connection(daemon.endpoint()) as connection:
        answer_all(daemon)
        daemon.faults.hold = True
        results = await asyncio.gather(
            *(use(connection, timeout_s=0.05) for _ in range(4)), return_exceptions=True
        )
        assert [type(result) for result in results] == [DeadlineExceeded] * 4
        daemon.release()
        assert connection._channel is not None
        await eventually(lambda: connection._channel is not None and not connection._channel._open)
        assert await use(connection) == b"signed data"
    await daemon.stop()


async def test_cancelled_task_tells_the_daemon(daemon: FakeDaemon, connection: Connection) -> None:
    answer_all(daemon)
    daemon.faults.hold = True
    task = asyncio.create_task(use(connection, timeout_s=30))
    await eventually(lambda: daemon.operations)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: len(daemon.cancelled) == 1)
    await eventually(lambda: connection._channel is not None and not connection._channel._open)


async def test_a_connection_cancels_requests_that_were_submitted(
    daemon: FakeDaemon, connection: Connection
) -> None:
    """Programs that were written for earlier releases cancel so."""
    daemon.faults.hold = True
    ticket = connection.submit(5_000, Purpose.SIGN_MESSAGE, SCHEME, KEY, b"", lambda kind, body: None)
    await eventually(lambda: daemon.operations)
    connection.cancel(ticket)
    await eventually(lambda: len(daemon.cancelled) == 1)


async def test_cancelling_at_any_moment_leaves_the_connection_usable(
    daemon: FakeDaemon, connection: Connection
) -> None:
    answer_all(daemon)
    for turns in range(40):
        tasks = [asyncio.create_task(use(connection)) for _ in range(3)]
        for _ in range(turns // 4):
            await asyncio.sleep(0 if turns % 2 else 0.0002)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert await use(connection) == b"signed data"
    assert daemon.logins == 1


async def test_a_cancelled_ticket_is_never_answered(daemon: FakeDaemon, connection: Connection) -> None:
    answer_all(daemon)
    answers: list[int] = []
    ticket = connection.submit(1000, 8, SCHEME, KEY, b"", lambda kind, body: answers.append(kind))
    ticket.cancel()
    ticket.cancel()
    await use(connection)
    await eventually(lambda: connection._channel is not None and not connection._channel._open)
    assert answers == []
    answered = connection.submit(1000, 8, SCHEME, KEY, b"", lambda kind, body: answers.append(kind))
    await eventually(lambda: answers)
    answered.cancel()
    assert answers == [Kind.RESULT]


# --- overload ---


async def test_more_requests_than_the_daemon_accepts_fail_at_once(tmp_path: Path) -> None:
    daemon = await FakeDaemon(tmp_path, max_open=8).start()
    async with Connection(daemon.endpoint()) as connection:
        daemon.faults.hold = True
        for _ in range(8):
            connection.submit(5000, 8, SCHEME, KEY, b"", lambda kind, body: None)
        with pytest.raises(Overloaded) as caught:
            connection.submit(5000, 8, SCHEME, KEY, b"", lambda kind, body: None)
        assert caught.value.retry_after_ms > 0
    await daemon.stop()


async def test_the_retry_hint_of_an_overloaded_daemon_is_followed(
    daemon: FakeDaemon, connection: Connection
) -> None:
    daemon.faults.refuse = Overloaded(retry_after_ms=40)
    began = time.monotonic()
    task = asyncio.create_task(use(connection))
    await eventually(lambda: len(daemon.operations) == 1)
    daemon.faults.refuse = None
    answer_all(daemon)
    assert await task == b"signed data"
    assert time.monotonic() - began >= 0.04
    daemon.faults.refuse = Overloaded(retry_after_ms=5000)
    with pytest.raises(Overloaded):
        await use(connection, timeout_s=0.5)


# --- loss and reconnection ---


async def test_a_lost_connection_fails_all_open_requests_at_once(
    daemon: FakeDaemon, connection: Connection
) -> None:
    daemon.faults.hold = True
    tasks = [asyncio.create_task(use(connection, timeout_s=30)) for _ in range(20)]
    await eventually(lambda: len(daemon.operations) == 20)
    began = time.monotonic()
    daemon.drop()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable] * 20
    assert time.monotonic() - began < 0.5


async def test_reconnects_within_two_seconds_of_the_daemons_return(
    daemon: FakeDaemon, connection: Connection
) -> None:
    answer_all(daemon)
    await daemon.stop()
    await eventually(lambda: not connection.available)
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await use(connection, timeout_s=30)
    assert time.monotonic() - began < 0.1
    await asyncio.sleep(1.5)  # meanwhile the back-off grows
    await daemon.start()
    await eventually(lambda: connection.available, within_s=2.0)
    assert await use(connection) == b"signed data"


async def test_first_attempt_after_a_loss_is_quick(daemon: FakeDaemon, connection: Connection) -> None:
    daemon.drop()
    await eventually(lambda: not connection.available)
    await eventually(lambda: connection.available, within_s=1.0)
    assert daemon.logins == 2


async def test_state_changes_are_reported(daemon: FakeDaemon) -> None:
    states: list[bool] = []
    async with Connection(daemon.endpoint(), on_state=states.append):
        daemon.drop()
        await eventually(lambda: states == [True, False, True])
    assert states == [True, False, True, False]


async def test_begin_connects_once_the_daemon_runs(tmp_path: Path) -> None:
    daemon = await FakeDaemon(tmp_path).start()
    await daemon.stop()
    connection = Connection(daemon.endpoint())
    connection.begin()
    await eventually(lambda: connection.problem is not None)
    assert "cannot be reached" in connection.problem.text  # type: ignore[union-attr]
    with pytest.raises(Unavailable, match="cannot be reached"):
        await use(connection)
    await daemon.start()
    await eventually(lambda: connection.available, within_s=2.0)
    await connection.close()
    await daemon.stop()


async def test_start_raises_and_leaves_nothing_when_no_daemon_listens(tmp_path: Path) -> None:
    daemon = await FakeDaemon(tmp_path).start()
    await daemon.stop()
    before = asyncio.all_tasks()
    with pytest.raises(Unavailable, match="cannot be reached"):
        await Connection(daemon.endpoint()).start()
    assert asyncio.all_tasks() == before


async def test_closing_fails_open_requests(daemon: FakeDaemon) -> None:
    daemon.faults.hold = True
    connection = Connection(daemon.endpoint())
    await connection.start()
    task = asyncio.create_task(use(connection))
    await eventually(lambda: daemon.operations)
    await connection.close()
    with pytest.raises(Unavailable):
        await task
    with pytest.raises(Unavailable):
        await use(connection)


# --- silence ---


async def test_silence_and_its_end_are_noticed(daemon: FakeDaemon, connection: Connection) -> None:
    answer_all(daemon)
    daemon.faults.silent = True
    began = time.monotonic()
    unanswered = asyncio.create_task(use(connection, timeout_s=1.5))
    await eventually(lambda: not connection.available, within_s=2.0)
    noticed_s = time.monotonic() - began
    assert SILENT_AFTER_S - 0.15 < noticed_s < SILENT_AFTER_S + 0.3
    began = time.monotonic()
    with pytest.raises(Unavailable, match="does not answer"):
        await use(connection, timeout_s=30)
    assert time.monotonic() - began < 0.05
    daemon.faults.silent = False
    with pytest.raises(DeadlineExceeded):
        await unanswered
    await eventually(lambda: connection.available, within_s=1.0)
    assert await use(connection) == b"signed data"
    assert daemon.logins == 1


async def test_idle_connection_stays_available(connection: Connection, daemon: FakeDaemon) -> None:
    ends = time.monotonic() + 1.0
    while time.monotonic() < ends:
        assert connection.available
        await asyncio.sleep(0.02)
    assert daemon.logins == 1


async def test_a_stall_of_the_client_is_not_taken_for_silence(
    daemon: FakeDaemon, connection: Connection
) -> None:
    time.sleep(0.6)  # noqa: ASYNC251  the loop is blocked, and the daemon with it
    await asyncio.sleep(0.1)
    assert connection.available


async def test_a_connection_to_a_silent_peer_is_replaced(daemon: FakeDaemon, connection: Connection) -> None:
    daemon.faults.silent = True
    with pytest.raises(DeadlineExceeded):
        await use(connection, timeout_s=0.1)
    await eventually(lambda: len(daemon.connections) == 0, within_s=10.0)
    daemon.faults.silent = False
    await eventually(lambda: connection.available, within_s=2.0)


# --- a daemon that misbehaves ---


async def test_half_a_frame_does_not_outlast_the_deadline(daemon: FakeDaemon, connection: Connection) -> None:
    answer_all(daemon)
    daemon.faults.half_frames = True
    with pytest.raises((DeadlineExceeded, Unavailable)):
        await use(connection, timeout_s=0.2)


async def test_an_answer_to_no_request_ends_the_connection(
    daemon: FakeDaemon, connection: Connection
) -> None:
    daemon.faults.foreign_answer = True
    with pytest.raises(Unavailable, match="not open"):
        await use(connection)
    daemon.faults.foreign_answer = False
    answer_all(daemon)
    await eventually(lambda: connection.available)
    assert await use(connection) == b"signed data"


async def test_giant_length_ends_the_connection(daemon: FakeDaemon, connection: Connection) -> None:
    daemon.sessions[0].write(b"\xff\xff\xff\xff")
    await eventually(lambda: daemon.logins == 2)


async def test_events_are_delivered_and_malformed_ones_end_the_connection(daemon: FakeDaemon) -> None:
    events: list[object] = []
    async with Connection(daemon.endpoint(), on_event=events.append) as connection:
        daemon.event(b'{"event":"key.changed","key":"www"}')
        await eventually(lambda: events == [{"event": "key.changed", "key": "www"}])
        daemon.event(b"[1")
        await eventually(lambda: daemon.logins == 2 and connection.available)


# --- drain ---


async def test_drain_moves_new_requests_and_completes_old_ones(
    daemon: FakeDaemon, connection: Connection
) -> None:
    answer_all(daemon)
    daemon.faults.hold = True
    old = [asyncio.create_task(use(connection, b"old", timeout_s=10)) for _ in range(5)]
    await eventually(lambda: len(daemon.operations) == 5)
    first = daemon.sessions[0]
    daemon.drain()
    await eventually(lambda: daemon.logins == 2 and connection.available)
    new = asyncio.create_task(use(connection, b"new"))
    await eventually(lambda: len(daemon.operations) == 6)
    first._draining = False
    daemon.release()
    assert await new == b"signed new"
    assert await asyncio.gather(*old) == [b"signed old"] * 5
    await eventually(lambda: first not in daemon.sessions)


async def test_reconnections_to_a_daemon_that_always_drains_are_limited(daemon: FakeDaemon) -> None:
    daemon.faults.drain_at_start = True
    connection = Connection(daemon.endpoint())
    connection.begin()
    await asyncio.sleep(1.0)
    await connection.close()
    assert 1 <= daemon.logins < 25


# --- hot path ---


async def test_submit_never_calls_the_callback_before_it_returns(
    daemon: FakeDaemon, connection: Connection
) -> None:
    daemon.faults.refuse = Refused()
    answers: list[tuple[int, bytes]] = []
    connection.submit(1000, 8, SCHEME, KEY, b"", lambda kind, body: answers.append((kind, body)))
    assert answers == []
    await eventually(lambda: answers)
    assert answers[0][0] == Kind.ERROR
    assert isinstance(decode_error(answers[0][1]), Refused)


async def test_a_missing_welcome_times_out(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hsmd.client.connection.LOGIN_S", 0.2)
    daemon.faults.silent = True
    with pytest.raises(Unavailable, match="welcome"):
        await Connection(daemon.endpoint()).start()
    await eventually(lambda: not daemon.connections)


async def test_an_error_instead_of_welcome_is_raised(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "hsmd.client.channel.encode_hello", lambda capabilities: b"\x00\x00\x00\x09\x03" + bytes(8)
    )
    with pytest.raises((ProtocolError, Unavailable)):
        await Connection(daemon.endpoint()).start()
