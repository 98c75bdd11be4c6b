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
    pid, uid, _ = _CREDENTIALS.unpack(found)
    return _signal(pid, uid)


def _signal(pid: int, uid: int) -> bool:
    """Send SIGHUP, unless the process has ended since it made the socket, and another user's has its number."""
    with suppress(OSError):
        process = os.pidfd_open(pid)
        try:
            if os.stat(f"/proc/{pid}").st_uid == uid:
                signal.pidfd_send_signal(process, signal.SIGHUP)
                return True
        finally:
            os.close(process)
    return False
