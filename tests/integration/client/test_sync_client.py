"""The synchronous client, over SSH and over an agent's socket."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hsmd.client import AgentEndpoint, Client, Connection
from hsmd.errors import DeadlineExceeded, ProtocolError, Refused, Unavailable
from hsmd.protocol.channel import ServerChannel
from hsmd.protocol.frames import Kind, encode, encode_error, encode_welcome
from hsmd.protocol.messages import WhoAmI
from tests.support.fake_daemon import CLIENT, FakeDaemon

KEY = b"k" * 32


class Background:
    """A fake daemon in a background thread, for synchronous tests."""

    def __init__(self, directory: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.daemon = FakeDaemon(directory)
        self.run(self.daemon.start())

    def run(self, coroutine: object) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)  # type: ignore[arg-type]

    def close(self) -> None:
        self.run(self.daemon.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


@pytest.fixture
def background(tmp_path: Path) -> Iterator[Background]:
    background = Background(tmp_path)
    yield background
    background.close()


def test_use_key_and_control(background: Background) -> None:
    background.daemon.faults.answer = lambda operation: b"signed " + operation.data
    with Client.connect(background.daemon.endpoint()) as client:
        assert client.use_key(KEY, 8, 0x0403, b"data", timeout_s=2) == b"signed data"
        assert client.control(WhoAmI(), timeout_s=2).client == CLIENT
        assert len(client.channel_binding) == 32


def test_errors_are_raised(background: Background) -> None:
    with Client.connect(background.daemon.endpoint()) as client:
        with pytest.raises(Refused):
            client.use_key(KEY, 8, 0x0403, b"data")
        background.daemon.faults.hold = True
        with pytest.raises(DeadlineExceeded):
            client.use_key(KEY, 8, 0x0403, b"data", timeout_s=0.05)


def test_many_threads_share_a_client(background: Background) -> None:
    background.daemon.faults.answer = lambda operation: b"signed " + operation.data
    texts = [b"%d" % number for number in range(200)]
    with Client.connect(background.daemon.endpoint()) as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda text: client.use_key(KEY, 8, 0x0403, text, timeout_s=5), texts))
    assert answers == [b"signed " + text for text in texts]
    assert background.daemon.logins == 1


def test_a_closed_client_raises_and_leaves_no_thread(background: Background) -> None:
    client = Client.connect(background.daemon.endpoint())
    client.close()
    client.close()
    with pytest.raises(Unavailable, match="closed"):
        client.use_key(KEY, 8, 0x0403, b"data")
    assert not [thread for thread in threading.enumerate() if thread.name == "hsmd-client"]


def test_failed_connect_leaves_no_thread(background: Background) -> None:
    with pytest.raises(ProtocolError):
        Client.connect(
            background.daemon.endpoint(host_keys=("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIN" + "A" * 42,))
        )
    assert not [thread for thread in threading.enumerate() if thread.name == "hsmd-client"]


def test_a_client_does_not_survive_a_fork(background: Background) -> None:
    with Client.connect(background.daemon.endpoint()) as client:
        child = os.fork()
        if child == 0:
            try:
                client.use_key(KEY, 8, 0x0403, b"data", timeout_s=1)
            except Unavailable as error:
                os._exit(0 if "fork" in error.text else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# --- the agent's socket ---


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Callable[[Callable[[socket.socket], None]], AgentEndpoint]]:
    """Starts a thread that calls a function for each connection to a socket, one after another."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(tmp_path / "agent.sock"))
    listening.listen()
    threads: list[threading.Thread] = []

    def serve(answer: Callable[[socket.socket], None]) -> AgentEndpoint:
        def loop() -> None:
            while True:
                try:
                    peer = listening.accept()[0]
                except OSError:
                    return
                with peer:
                    answer(peer)

        threads.append(threading.Thread(target=loop))
        threads[0].start()
        return AgentEndpoint(tmp_path / "agent.sock")

    yield serve
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    for thread in threads:
        thread.join(5)


def answering(peer: socket.socket) -> None:
    """Answer a key operation with its data, in small pieces."""
    channel = ServerChannel(1, 8)
    frames = channel.receive(peer.recv(65_536))
    kind, request_id, body = frames[1]
    assert kind == Kind.KEY_OPERATION
    for byte in (
        encode_welcome(channel.welcome())
        + encode(Kind.PING, 7)
        + encode(Kind.RESULT, request_id, b"signed " + body[39:])
    ):
        peer.send(bytes([byte]))


def test_agent_operation_on_a_short_connection(agent: Callable[..., AgentEndpoint]) -> None:
    with Client.connect(agent(answering)) as client:
        for _ in range(3):
            assert client.use_key(KEY, 8, 0x0403, b"data", timeout_s=2) == b"signed data"


def test_a_silent_agent_costs_no_more_than_the_deadline(agent: Callable[..., AgentEndpoint]) -> None:
    with Client.connect(agent(lambda peer: time.sleep(0.5))) as client:
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            client.use_key(KEY, 8, 0x0403, b"data", timeout_s=0.1)
        assert time.monotonic() - began < 0.4


def disconnect(peer: socket.socket) -> None:
    peer.recv(65_536)


def refuse_the_channel(peer: socket.socket) -> None:
    peer.recv(65_536)
    peer.send(encode_error(0, ProtocolError("no")))


def answer_another_request(peer: socket.socket) -> None:
    channel = ServerChannel(1, 8)
    channel.receive(peer.recv(65_536))
    peer.send(encode_welcome(channel.welcome()) + encode(Kind.CONTROL_RESULT, 1, b"{}"))


@pytest.mark.parametrize(
    ("answer", "error"),
    [(disconnect, Unavailable), (refuse_the_channel, ProtocolError), (answer_another_request, ProtocolError)],
)
def test_agents_that_misbehave(
    agent: Callable[..., AgentEndpoint], answer: Callable[[socket.socket], None], error: type[Exception]
) -> None:
    with Client.connect(agent(answer)) as client, pytest.raises(error):
        client.use_key(KEY, 8, 0x0403, b"data", timeout_s=2)


def test_a_missing_agent_is_reported(tmp_path: Path) -> None:
    with (
        Client.connect(AgentEndpoint(tmp_path / "none.sock")) as client,
        pytest.raises(Unavailable, match="is the agent running"),
    ):
        client.control(WhoAmI())


async def test_a_connection_can_use_the_agent(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="is the agent running"):
        await Connection(AgentEndpoint(tmp_path / "none.sock")).start()
