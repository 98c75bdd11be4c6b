"""Signatures by a key in the user's SSH agent: OpenSSH's, ours, and agents that answer anything."""

from __future__ import annotations

import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from hsmd.errors import BadRequest
from hsmd.holder.ssh_agent import OneKeyAgent
from hsmd.system import agent_keys
from hsmd.system.agent_keys import AgentKey
from hsmd.system.ssh_agent_messages import MAX_MESSAGE_BYTES, string
from tests.support.polling import wait_until
from tests.support.processes import Process, program
from tests.support.rollover import node_key

KEY, OTHER = node_key("ann"), node_key("bob")
FAILURE = b"\x05"


def listing(key: Ed25519PrivateKey) -> bytes:
    blob = string(b"ssh-ed25519") + string(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
    return bytes([12]) + struct.pack(">I", 1) + string(blob) + string(b"a comment")


def signature(key: Ed25519PrivateKey, algorithm: bytes = b"ssh-ed25519") -> bytes:
    return bytes([14]) + string(string(algorithm) + string(key.sign(b"data")))


@contextmanager
def answering(path: Path, *answers: bytes) -> Iterator[None]:
    """An agent that gives these bytes to one connection each, and then ends it."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            for answer in answers:
                connection, _ = listening.accept()
                with connection:
                    connection.recv(65_536)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join(10)
        assert not thread.is_alive()


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "agent"
    monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
    return path


def problem(work: Callable[[], object]) -> str:
    with pytest.raises(BadRequest) as refused:
        work()
    what, _, advice = refused.value.text.partition("; ")
    assert what and advice
    return what


def test_the_agent_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    with OneKeyAgent(KEY, "ann") as agent:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent.path))
        key = AgentKey(KEY.public_key())
        assert key.sign(b"data") == KEY.sign(b"data")
        assert key.public_key() == KEY.public_key()
        assert "does not hold the key" in problem(lambda: AgentKey(OTHER.public_key()))


def test_the_agent_of_openssh_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, private = tmp_path / "socket", tmp_path / "key"
    private.touch(0o600)
    private.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    agent = Process([program("ssh-agent"), "-D", "-a", str(path)], tmp_path / "log")
    try:
        wait_until(lambda: listens(path), "the agent listens", 15)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        assert "does not hold the key" in problem(lambda: AgentKey(KEY.public_key()))
        subprocess.run([program("ssh-add"), "-q", str(private)], check=True, timeout=20)
        key = AgentKey(KEY.public_key())
        assert key.sign(b"data") == KEY.sign(b"data")
        subprocess.run([program("ssh-add"), "-q", "-D"], check=True, timeout=20)
        assert "refused" in problem(lambda: key.sign(b"data"))
    finally:
        agent.stop()


def test_there_is_no_agent(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cannot be reached" in problem(lambda: AgentKey(KEY.public_key()))
    monkeypatch.setenv("SSH_AUTH_SOCK", "x" * 200)
    assert "cannot be reached" in problem(lambda: AgentKey(KEY.public_key()))
    monkeypatch.delenv("SSH_AUTH_SOCK")
    assert "there is no ssh-agent" in problem(lambda: AgentKey(KEY.public_key()))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (string(FAILURE), "refused"),
        (string(bytes([14])), "refused"),
        (string(listing(KEY)[:-1]), "not well formed"),
        (string(bytes([12])), "does not hold"),
        (string(bytes([12]) + b"\xff" * 4), "not well formed"),
        (string(b""), "ended the connection"),
        (b"\0\0\0\x09abc", "ended the connection"),
        (struct.pack(">I", MAX_MESSAGE_BYTES + 1), "ended the connection"),
    ],
)
def test_lists_that_are_wrong_are_refused(path: Path, answer: bytes, said: str) -> None:
    with answering(path, answer):
        assert said in problem(lambda: AgentKey(KEY.public_key()))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (FAILURE, "refused"),
        (signature(OTHER), "wrong"),
        (signature(KEY, b"ssh-rsa"), "wrong"),
        (signature(KEY)[:-1], "wrong"),
        (bytes([14]), "wrong"),
    ],
)
def test_answers_that_are_wrong_are_refused(path: Path, answer: bytes, said: str) -> None:
    with answering(path, string(listing(KEY)), string(answer)):
        key = AgentKey(KEY.public_key())
        assert said in problem(lambda: key.sign(b"data"))


def test_an_agent_that_does_not_answer_is_not_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_keys, "ANSWER_S", 0.05)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        assert "did not answer within" in problem(lambda: AgentKey(KEY.public_key()))
