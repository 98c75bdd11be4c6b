"""Messages between launcher and front: round trips, and packets that are refused."""

from __future__ import annotations

import json
import random

import pytest

from hsmd.daemon.ipc.launcher_messages import (
    DESCRIPTORS,
    AnyToFront,
    AnyToLauncher,
    Drain,
    FrontReady,
    PermitStarts,
    Reload,
    Reloaded,
    ReplaceWorker,
    Starts,
    WorkerEnded,
    WorkerStarted,
    decode_for_front,
    decode_for_launcher,
    encode,
)
from hsmd.errors import ProtocolError

TO_FRONT: list[AnyToFront] = [
    WorkerStarted("first", 3, 4711, control=True),
    WorkerEnded("first", 4711, signal=11),
    WorkerEnded("first", 4711, signal=0),
    Reload(),
    Drain(),
]
TO_LAUNCHER: list[AnyToLauncher] = [
    FrontReady(["127.0.0.1:7677", "[::1]:7677"], "ssh-ed25519 AAAA"),
    Reloaded(applied=True),
    Reloaded(applied=False),
    ReplaceWorker(4711),
    *(PermitStarts("first", starts, cleared=False) for starts in Starts),
]


def name(message: object) -> str:
    return type(message).__name__


def descriptors_of(message: AnyToFront) -> int:
    return DESCRIPTORS if isinstance(message, WorkerStarted) else 0


@pytest.mark.parametrize("message", TO_FRONT, ids=name)
def test_messages_to_the_front_survive_a_round_trip(message: AnyToFront) -> None:
    assert decode_for_front(encode(message), descriptors_of(message)) == message


@pytest.mark.parametrize("message", TO_LAUNCHER, ids=name)
def test_messages_to_the_launcher_survive_a_round_trip(message: AnyToLauncher) -> None:
    assert decode_for_launcher(encode(message)) == message


@pytest.mark.parametrize("message", TO_FRONT, ids=name)
def test_a_wrong_number_of_descriptors_is_refused(message: AnyToFront) -> None:
    for number in {0, 1, 2, 3} - {descriptors_of(message)}:
        with pytest.raises(ProtocolError, match="descriptors"):
            decode_for_front(encode(message), number)


@pytest.mark.parametrize("message", [*TO_FRONT, *TO_LAUNCHER], ids=name)
def test_every_truncation_is_refused(message: AnyToFront | AnyToLauncher) -> None:
    packet = encode(message)
    for length in range(len(packet)):
        with pytest.raises(ProtocolError):
            decode_for_launcher(packet[:length])
        with pytest.raises(ProtocolError):
            decode_for_front(packet[:length], DESCRIPTORS)


@pytest.mark.parametrize("message", [*TO_FRONT, *TO_LAUNCHER], ids=name)
def test_mutations_are_refused_or_are_messages(message: AnyToFront | AnyToLauncher) -> None:
    generator = random.Random(encode(message))
    for _ in range(2000):
        packet = bytearray(encode(message))
        for _ in range(generator.randint(1, 3)):
            packet[generator.randrange(len(packet))] = generator.randrange(256)
        for decoded in (outcome_at_launcher(bytes(packet)), outcome_at_front(bytes(packet))):
            assert decoded is None or isinstance(decoded, AnyToFront | AnyToLauncher)


def outcome_at_launcher(packet: bytes) -> AnyToLauncher | None:
    try:
        return decode_for_launcher(packet)
    except ProtocolError:
        return None


def outcome_at_front(packet: bytes) -> AnyToFront | None:
    try:
        return decode_for_front(packet, DESCRIPTORS)
    except ProtocolError:
        return None


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        None,
        5,
        {"token": {}},
        {"message": "unknown"},
        {"message": 1},
        {"message": "reload", "more": 1},
        {"ready": {"addresses": [], "host_key": ""}},
        {"message": "front-ready", "addresses": "127.0.0.1:1", "host_key": ""},
        {"message": "replace-worker"},
        {"message": "replace-worker", "pid": 0},
        {"message": "replace-worker", "pid": -1},
        {"message": "replace-worker", "pid": "1"},
        {"message": "replace-worker", "pid": True},
        {"message": "permit-starts", "token": "first", "starts": "some", "cleared": False},
        {"message": "permit-starts", "token": 1, "starts": "all", "cleared": False},
        {"message": "reloaded", "applied": 1},
        {"message": "worker-started", "token": "first", "generation": 0, "pid": 1, "control": False},
        {"message": "worker-ended", "token": "first", "pid": 1, "signal": -9},
    ],
    ids=json.dumps,
)
def test_other_documents_are_refused(document: object) -> None:
    packet = json.dumps(document).encode()
    with pytest.raises(ProtocolError):
        decode_for_launcher(packet)
    for descriptors in (0, DESCRIPTORS):
        with pytest.raises(ProtocolError):
            decode_for_front(packet, descriptors)


@pytest.mark.parametrize(
    "packet", [b"", b"\xff", b"\x00", b"[" * 60_000, b'{"a":' * 10_000, b'{"message":"\xff"}']
)
def test_packets_that_are_not_json_are_refused(packet: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_for_launcher(packet)
    with pytest.raises(ProtocolError):
        decode_for_front(packet, 0)


def test_each_side_accepts_only_messages_of_the_other() -> None:
    for to_front in TO_FRONT:
        with pytest.raises(ProtocolError):
            decode_for_launcher(encode(to_front))
    for to_launcher in TO_LAUNCHER:
        with pytest.raises(ProtocolError):
            decode_for_front(encode(to_launcher), 0)
