"""The front's end of the launcher socket: messages in order, descriptors delivered or closed, and both ways it ends."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator

import pytest

from hsmd.daemon.front.launcher_link import LauncherLink
from hsmd.daemon.ipc.launcher_messages import (
    AnyToFront,
    Drain,
    Reload,
    ReplaceWorker,
    WorkerStarted,
    decode_for_launcher,
    encode,
)


class Listener:
    """Records what a link delivered."""

    def __init__(self, link: LauncherLink) -> None:
        self.messages: list[AnyToFront] = []
        self.descriptors: list[int] = []
        self.ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        link.listen(self._receive, self.ended.set_result)

    def _receive(self, message: AnyToFront, descriptors: list[int]) -> None:
        self.messages.append(message)
        self.descriptors += descriptors


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The sockets of the launcher and the front."""
    launcher, front = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    front.setblocking(False)
    with launcher, front:
        yield launcher, front


async def test_messages_arrive_with_their_descriptors_until_the_launcher_ends(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    launcher, front = pair
    listener = Listener(LauncherLink(front))
    started = WorkerStarted("first", 1, 42, control=False)
    reader, writer = os.pipe()
    socket.send_fds(launcher, [encode(started)], [reader, writer])
    os.close(reader)
    os.close(writer)
    launcher.send(encode(Reload()))
    launcher.send(encode(Drain()))
    launcher.close()
    assert await asyncio.wait_for(listener.ended, 5) is False
    assert listener.messages == [started, Reload(), Drain()]
    ours, theirs = listener.descriptors
    os.write(theirs, b"x")
    assert os.read(ours, 1) == b"x"
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize("packet", [b"\xff", b"{}", b'{"message":"unknown"}', encode(Drain())])
async def test_a_malformed_packet_ends_the_link_and_its_descriptors_are_closed(
    pair: tuple[socket.socket, socket.socket], packet: bytes
) -> None:
    launcher, front = pair
    listener = Listener(LauncherLink(front))
    reader, writer = os.pipe()
    socket.send_fds(launcher, [packet], [writer])
    os.close(writer)
    launcher.send(encode(Reload()))
    assert await asyncio.wait_for(listener.ended, 5) is True
    assert os.read(reader, 1) == b"", "the copy of the descriptor is still open"
    os.close(reader)
    assert listener.messages == []


async def test_messages_reach_the_launcher(pair: tuple[socket.socket, socket.socket]) -> None:
    launcher, front = pair
    link = LauncherLink(front)
    link.send(ReplaceWorker(42))
    assert decode_for_launcher(launcher.recv(65_536)) == ReplaceWorker(42)
    launcher.close()
    link.send(ReplaceWorker(42))  # logged; `listen` reports the end
