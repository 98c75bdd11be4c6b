"""Making a running agent read its configuration again."""

from __future__ import annotations

import os
import signal
import socket
import struct
from contextlib import suppress
from pathlib import Path

_CREDENTIALS = struct.Struct("3i")
"""struct ucred of unix(7): process, user and group that the socket was made by."""


def reload(path: Path) -> bool:
    """Send SIGHUP to the agent that listens on a socket; return whether there is one that this user may signal."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(2.0)
        try:
            connection.connect(str(path))
            found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except OSError:
            return False
    pid, _, _ = _CREDENTIALS.unpack(found)
    with suppress(OSError):
        os.kill(pid, signal.SIGHUP)
        return True
    return False
