"""Accepts local connections, a bounded number in a turn of the event loop, and charges each to the user that made it.

A connection of a user that is beyond its share waits here, and costs no more than its descriptor.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import struct
from collections.abc import Callable
from typing import Any

from hsmd import observe
from hsmd.agent.sessions import CONNECTION, RETRY_S, LocalUser, Sessions
from hsmd.errors import Overloaded
from hsmd.protocol.frames import encode_error

ACCEPTED_A_TURN = 8
"""To accept a connection, learn its user and close it again takes 30 us, for which others wait."""
BACKLOG = 128
"""Connections that the kernel keeps for us: a few turns. A flood of one user must not put a long queue before all others."""
WITHOUT_DESCRIPTORS_S = 0.5
"""How long none is accepted after the system has refused a descriptor."""
_PEER = struct.Struct("=iII")
"""struct ucred: pid, uid, gid (unix(7), SO_PEERCRED)."""
_TOO_MANY = encode_error(0, Overloaded.retry_in(RETRY_S))

log = observe.logger()


class Acceptor:
    """Accepts from one listening socket until `close`; `begin` makes the protocol of a connection for its user."""

    def __init__(
        self,
        listening: socket.socket,
        sessions: Sessions,
        begin: Callable[[LocalUser], asyncio.BaseProtocol],
    ) -> None:
        self._listening = listening
        self._sessions = sessions
        self._begin = begin
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._waiting: set[socket.socket] = set()
        self._closed = False
        listening.setblocking(False)
        listening.listen(BACKLOG)
        self._loop.add_reader(listening, self._accept)

    def close(self) -> None:
        """Accept no more; connections that wait for their turn end."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._listening)
            for connection in self._waiting:
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        for _ in range(ACCEPTED_A_TURN):
            try:
                connection, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.error("agent.not_accepted", error=error.strerror)
                self._loop.remove_reader(self._listening)
                self._loop.call_later(WITHOUT_DESCRIPTORS_S, self._accept_again)
                return
            self._admit(connection)

    def _accept_again(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listening, self._accept)

    def _admit(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        # The credentials of the process that called connect(2); passing the descriptor on does not change them.
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        user = self._sessions.admit(_PEER.unpack(peer)[1])
        if user is None:
            with contextlib.suppress(OSError):
                connection.send(_TOO_MANY)
            connection.close()
        elif user.intake.frames_now():
            self._start(connection, user)
        else:
            self._waiting.add(connection)
            user.intake.wait(lambda: self._start_waiting(connection, user))

    def _start_waiting(self, connection: socket.socket, user: LocalUser) -> None:
        self._waiting.discard(connection)
        user.intake.charge(frames=1)
        if _is_gone(connection):
            connection.close()
            self._sessions.release(user)
        else:
            self._start(connection, user)

    def _start(self, connection: socket.socket, user: LocalUser) -> None:
        user.intake.spend(CONNECTION)
        task = self._loop.create_task(self._open(connection, user))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self, connection: socket.socket, user: LocalUser) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: self._begin(user), connection)
        except OSError:
            connection.close()
            self._sessions.release(user)


def _is_gone(connection: socket.socket) -> bool:
    """Whether the peer has closed its end for both directions."""
    poll = select.poll()
    poll.register(connection, 0)
    return bool(poll.poll(0))
