"""The front process and the launcher's end of the socket pair to it: start, send, receive."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Sequence

from hsmd import observe
from hsmd.daemon.config.settings import Config
from hsmd.daemon.ipc.launcher_messages import (
    MAX_PACKET_BYTES,
    AnyToFront,
    AnyToLauncher,
    decode_for_launcher,
    encode,
)
from hsmd.daemon.ipc.spawn import environment_for, start_python
from hsmd.errors import ProtocolError

log = observe.logger()


class FrontProcess:
    """A front process. `closed` is true once no more messages will come from it: it has ended, is about to, or was killed."""

    def __init__(self, process: subprocess.Popen[bytes], link: socket.socket) -> None:
        self.process = process
        self.link = link
        self.closed = False

    @classmethod
    def start(cls, config: Config) -> FrontProcess:
        """Start a front, as the configured user if this process may change users. Raises OSError."""
        user = config.users.front if os.geteuid() == 0 else ""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                process = start_python(
                    "hsmd.daemon.front.app",
                    ["--config", str(config.path), "--launcher-fd", str(theirs.fileno())],
                    environment=environment_for(user),
                    descriptors=[theirs.fileno()],
                    user=user,
                )
            except OSError:
                ours.close()
                raise
        ours.setblocking(False)
        return cls(process, ours)

    @property
    def pid(self) -> int:
        """Process id of the front."""
        return self.process.pid

    def send(self, message: AnyToFront, descriptors: Sequence[int] = ()) -> None:
        """Send a message. A front that does not receive is killed."""
        try:
            socket.send_fds(self.link, [encode(message)], descriptors)
        except BlockingIOError:
            log.error("front.deaf", pid=self.pid)
            self.process.kill()
        except OSError:
            log.warning("front.gone", pid=self.pid)

    def receive(self) -> AnyToLauncher | None:
        """The next message, None if there is none. A front that sends something else is killed."""
        try:
            packet = self.link.recv(MAX_PACKET_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            packet = b""
        if not packet:
            self.closed = True
            return None
        try:
            return decode_for_launcher(packet)
        except ProtocolError as error:
            log.error("front.malformed", pid=self.pid, reason=error.text)
            self.process.kill()
            self.closed = True
            return None
