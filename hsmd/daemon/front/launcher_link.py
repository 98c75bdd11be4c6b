"""The front's end of the socket pair to the launcher: typed messages, received on the event loop."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

from hsmd import observe
from hsmd.daemon.ipc.launcher_messages import (
    DESCRIPTORS,
    MAX_PACKET_BYTES,
    AnyToFront,
    AnyToLauncher,
    decode_for_front,
    encode,
)
from hsmd.errors import ProtocolError

log = observe.logger()


class LauncherLink:
    """Sends messages to the launcher and passes on those it sends. `link` is a non-blocking SEQPACKET socket."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link

    def send(self, message: AnyToLauncher) -> None:
        """Send a message. A launcher that is gone is reported by `listen`."""
        try:
            self._link.send(encode(message))
        except OSError as error:
            log.error("launcher.gone", error=error.strerror)

    def listen(
        self, received: Callable[[AnyToFront, list[int]], None], ended: Callable[[bool], None]
    ) -> None:
        """Call `received` with each message and its descriptors, which it then owns, on the running event loop.

        `ended` is called once: with False if the launcher is gone, with True if it sent something that is not a message.
        """
        asyncio.get_running_loop().add_reader(self._link, self._receive, received, ended)

    def close(self) -> None:
        """Stop receiving. Messages can still be sent."""
        asyncio.get_running_loop().remove_reader(self._link)

    def _receive(
        self, received: Callable[[AnyToFront, list[int]], None], ended: Callable[[bool], None]
    ) -> None:
        try:
            packet, descriptors, _, _ = socket.recv_fds(self._link, MAX_PACKET_BYTES, DESCRIPTORS)
        except BlockingIOError:
            return
        except OSError:
            packet, descriptors = b"", []
        if not packet:
            log.error("launcher.gone")
            self.close()
            ended(False)
            return
        try:
            message = decode_for_front(packet, len(descriptors))
        except ProtocolError as error:
            log.error("launcher.malformed", reason=error.text)
            for descriptor in descriptors:
                os.close(descriptor)
            self.close()
            ended(True)
            return
        received(message, descriptors)
