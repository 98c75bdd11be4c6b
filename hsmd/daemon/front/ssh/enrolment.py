"""The only channel that the holder of an enrolment token may open: one request, one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from hsmd.protocol.enrolment import MAX_DOCUMENT_BYTES, SUBSYSTEM
from hsmd.protocol.roles import Role
from hsmd.system.ssh_library import asyncssh
from hsmd.system.ssh_profile import refuse_environment

TALK_S = 10.0
"""Time from the login to the end of such a connection."""
MAX_AT_ONCE = 4
"""Token holders that may be connected at a time."""


class Enrolments(Protocol):
    """What checks enrolment tokens and answers their holders."""

    async def admit(self, password: str, address: str, roles: frozenset[Role]) -> bool:
        """Whether the password proves a token that may be used now at an address that admits these roles.

        Each refusal takes the same time.
        """

    async def answer(self, password: str, line: bytes, address: str) -> bytes:
        """The answer to the request of an admitted token holder; empty if there is none."""


class EnrolmentChannel(asyncssh.SSHServerSession[bytes]):
    """One session channel with the subsystem `hsmd-enroll`."""

    def __init__(self, answer: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._answer = answer
        self._received = bytearray()
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, chan: Any) -> None:
        self._channel = chan
        refuse_environment(chan)

    def subsystem_requested(self, subsystem: str) -> bool:
        return subsystem == SUBSYSTEM

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if self._task is not None or datatype is not None:
            return
        self._received += data
        line, newline, _ = self._received.partition(b"\n")
        if newline:
            self._task = asyncio.get_running_loop().create_task(self._reply(bytes(line)))
        elif len(self._received) > MAX_DOCUMENT_BYTES:
            self._channel.close()

    def eof_received(self) -> bool:
        """Stay open for the answer: the peer will send nothing more."""
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Carry on with a request that was received: the token is used up either way."""

    async def _reply(self, line: bytes) -> None:
        answer = await self._answer(line)
        if not self._channel.is_closing():
            self._channel.write(answer)
            self._channel.exit(0)
