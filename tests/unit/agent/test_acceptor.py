"""Accepting local connections: a bounded number at a time, each charged to its user; those beyond a user's share wait."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hsmd.agent import acceptor as acceptors, sessions as limits
from hsmd.agent.acceptor import Acceptor
from hsmd.agent.sessions import LocalUser, Sessions
from hsmd.errors import ErrorCode
from hsmd.protocol.frames import decode_error
from tests.support.polling import eventually


class Begun(asyncio.Protocol):
    """A connection that was given to its user's session."""

    def __init__(self, sessions: Sessions, user: LocalUser, begun: list[Begun]) -> None:
        self._sessions, self._user = sessions, user
        begun.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._sessions.release(self._user)


class Listening:
    """An acceptor on a socket in a directory; time stands still."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 0.0
        self.sessions = Sessions(clock=lambda: self.now)
        self.begun: list[Begun] = []
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.acceptor = Acceptor(
            self.socket, self.sessions, lambda user: Begun(self.sessions, user, self.begun)
        )

    def connect(self) -> socket.socket:
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(str(self.path))
        return peer

    def spend_all(self) -> None:
        """The user of this test is beyond its share."""
        user = self.sessions.admit(os.geteuid())
        assert user is not None
        user.intake.spend(limits.TARIFF.burst + limits.TARIFF.share)


@pytest.fixture
async def listening(tmp_path: Path) -> Iterator[Listening]:
    made = Listening(tmp_path / "s")
    yield made
    made.acceptor.close()
    made.socket.close()
    await asyncio.sleep(0)


async def test_connections_are_given_to_their_user(listening: Listening) -> None:
    with listening.connect(), listening.connect():
        await eventually(lambda: len(listening.begun) == 2)
        assert len(listening.sessions) == 2
    await eventually(lambda: len(listening.sessions) == 0)


async def test_connections_of_a_user_beyond_its_share_wait(listening: Listening) -> None:
    listening.spend_all()
    with listening.connect():
        await eventually(lambda: len(listening.sessions) == 2)
        assert not listening.begun
        listening.now += 10.0
        await eventually(lambda: len(listening.begun) == 1)


async def test_a_connection_that_ended_while_it_waited_costs_no_session(listening: Listening) -> None:
    listening.spend_all()
    with listening.connect():
        await eventually(lambda: len(listening.sessions) == 2)
    listening.now += 10.0
    await eventually(lambda: len(listening.sessions) == 1)
    assert not listening.begun


async def test_a_turn_of_the_loop_accepts_a_bounded_number_of_connections(listening: Listening) -> None:
    """A flood of connections of one user takes little of each turn; those of others are accepted in between."""
    with ExitStack() as stack:
        for _ in range(acceptors.ACCEPTED_A_TURN * 2 + 1):
            stack.enter_context(listening.connect())
        listening.acceptor._accept()
        assert len(listening.sessions) == acceptors.ACCEPTED_A_TURN
        await eventually(lambda: len(listening.begun) == acceptors.ACCEPTED_A_TURN * 2 + 1)


async def test_too_many_connections_of_a_user_are_refused(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_CONNECTIONS_OF_USER", 1)
    with listening.connect(), listening.connect() as refused:
        await eventually(lambda: len(listening.begun) == 1)
        refused.settimeout(5)
        answer = await asyncio.to_thread(refused.recv, 100)
        assert decode_error(answer[13:]).code == ErrorCode.OVERLOADED
        assert await asyncio.to_thread(refused.recv, 100) == b""


async def test_without_descriptors_it_tries_again_later(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptors, "WITHOUT_DESCRIPTORS_S", 0.01)
    real, failures = listening.acceptor._listening, [OSError(24, "Too many open files")]

    class Failing:
        def accept(self) -> object:
            if failures:
                raise failures.pop()
            return real.accept()

        def fileno(self) -> int:
            return real.fileno()

    monkeypatch.setattr(listening.acceptor, "_listening", Failing())
    with listening.connect():
        await eventually(lambda: len(listening.begun) == 1)
    assert not failures
