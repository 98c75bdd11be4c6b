"""What the transports to a daemon and to an agent have in common: an open channel that carries bytes and knows no frames."""

from __future__ import annotations

from typing import Protocol

REACH_S = 1.0
"""Time for TCP to reach the host. Short, because a lost SYN is better sent again soon than waited for."""
LOGIN_S = 5.0
"""Time for key exchange, authentication and opening the channel, and then for the welcome."""


class Receiver(Protocol):
    """Takes the bytes of a wire."""

    def received(self, data: bytes) -> None: ...

    def lost(self, reason: str) -> None:
        """The wire is gone; called once, nothing follows."""


class Wire(Protocol):
    """An open channel: ordered bytes, until it is lost.

    `binding` is the session identifier of its SSH connection (RFC 4253, section 7.2), which no other connection has; empty
    for a socket.
    """

    binding: bytes

    def write(self, data: bytes) -> None: ...

    def close(self) -> None:
        """Close at once; what was written before is still sent if the peer reads it."""

    async def wait_closed(self) -> None:
        """Wait until all resources of the wire are released."""
