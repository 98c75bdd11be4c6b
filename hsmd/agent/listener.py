"""The agent's listening socket: in a directory that other users cannot write to, and ready before its name appears.

Only sockets with a path are used: any process can take the name of an abstract socket first.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from hsmd import observe
from hsmd.agent.config import KEEP, SocketConfig
from hsmd.errors import ConfigurationError, Conflict
from hsmd.system import access_list, directories

_PROBE_S = 1.0
_FIRST_PASSED_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START of systemd's socket activation protocol."""
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_CONNECT = 0o6
"""Permissions on a Unix socket to connect to it (unix(7))."""

log = observe.logger()


@dataclass(slots=True)
class Listener:
    """A listening socket. `close` removes its name if it still belongs to this socket."""

    socket: socket.socket
    path: Path | None
    _inode: int = 0
    _lock: int = -1

    def protect(self, config: SocketConfig) -> None:
        """Set owner, group, mode and access list, which decide which users may connect. Raises ConfigurationError."""
        assert self.path is not None
        try:
            _protect(self.path, config)
        except OSError as error:
            raise _failed(config.path, error) from None

    def close(self) -> None:
        """Stop listening; may be called again."""
        self.socket.close()
        path, self.path = self.path, None
        if path is not None:
            with contextlib.suppress(OSError):
                if path.lstat().st_ino == self._inode:
                    path.unlink()
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


def listen(config: SocketConfig) -> Listener:
    """Listen as `config` says, replacing a socket on which no process listens.

    Raises ConfigurationError (the directory is unsafe or not writable) or Conflict (another agent uses the socket).
    """
    with contextlib.suppress(OSError):
        directories.make(config.path.parent, directories.SHARED)
    _check_directory(config.path.parent)
    lock = _lock(config.path)
    try:
        _check_unused(config.path)
        return _bind(config, lock)
    except BaseException as error:
        os.close(lock)
        if isinstance(error, OSError):
            raise _failed(config.path, error) from None
        raise


def inherited() -> Listener | None:
    """The socket that systemd passed (LISTEN_FDS), None if it passed none. Raises ConfigurationError if it is unsuitable."""
    count, pid = os.environ.pop("LISTEN_FDS", ""), os.environ.pop("LISTEN_PID", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit() or count == "0":
        return None
    if count != "1":
        raise ConfigurationError("LISTEN_FDS", [f"{count} sockets were passed; the agent needs one"])
    passed = socket.socket(fileno=_FIRST_PASSED_DESCRIPTOR)
    os.set_inheritable(passed.fileno(), False)
    name = passed.getsockname()
    if (
        passed.family != socket.AF_UNIX
        or passed.type != socket.SOCK_STREAM
        or not isinstance(name, str)
        or not name
    ):
        raise ConfigurationError("LISTEN_FDS", ["the socket must be ListenStream= with a path, not abstract"])
    if not passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ConfigurationError("LISTEN_FDS", ["the socket does not listen; set Accept=no"])
    passed.setblocking(False)
    return Listener(passed, None)


def _check_directory(directory: Path) -> None:
    """Check that only root and the agent's user can replace the socket or a directory above it. Raises ConfigurationError."""
    if os.path.realpath(directory) != str(directory):
        raise _unsafe(directory, f"is reached through a symbolic link; write {os.path.realpath(directory)}")
    for each in (directory, *directory.parents):
        try:
            status = each.lstat()
        except OSError as error:
            raise _unsafe(each, error.strerror or "cannot be examined") from None
        if not stat.S_ISDIR(status.st_mode):
            raise _unsafe(each, "is not a directory")
        if status.st_uid not in (0, os.geteuid()):
            raise _unsafe(each, "belongs to another user")
        sticky = status.st_mode & stat.S_ISVTX and each != directory
        if status.st_mode & _WRITABLE_BY_OTHERS and not sticky:
            raise _unsafe(each, "is writable by other users; run: chmod go-w")


def _unsafe(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError("agent.socket", [f"{path} {why}"])


def _lock(path: Path) -> int:
    """Lock the socket's name while the agent runs, so that two agents that start together cannot both take it."""
    name = path.with_name(f".{path.name}.lock")
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _failed(name, error) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise _running(path) from None
    return descriptor


def _running(path: Path) -> Conflict:
    return Conflict(f"an agent is running on {path}; stop it first, or choose another agent.socket")


def _check_unused(path: Path) -> None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise ConfigurationError(
            "agent.socket", [f"{path} exists and is not a socket; remove it or choose another name"]
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_S)
        if probe.connect_ex(str(path)) != errno.ECONNREFUSED:
            raise _running(path)


def _bind(config: SocketConfig, lock: int) -> Listener:
    temporary = config.path.with_name(f".{config.path.name}.new")
    temporary.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        listening.bind(str(temporary))
        _protect(temporary, config)
        listening.listen()
        inode = temporary.lstat().st_ino
        temporary.replace(config.path)
    except BaseException:
        listening.close()
        temporary.unlink(missing_ok=True)
        raise
    return Listener(listening, config.path, inode, lock)


def _protect(path: Path, config: SocketConfig) -> None:
    """Set owner and mode through a descriptor, so that they apply to the file checked even if its name is replaced meanwhile.

    The users that agent.toml names are in the access list: servers of several groups share one socket, and those that drop their
    supplementary groups, as HAProxy does, need none.
    """
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
        name = f"/proc/self/fd/{descriptor}"
        if (config.owner, config.group) != (KEEP, KEEP):
            os.chown(name, config.owner, config.group)
        users = config.users - {0, os.geteuid()}
        if not access_list.allow(name, config.mode, users, _CONNECT):
            log.warning("socket.no_access_list", path=str(config.path))
    finally:
        os.close(descriptor)


def _failed(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError("agent.socket", [f"{path}: {error.strerror}"])
