"""Reading what the agent has written, as root: the agent may be under an attacker's control, and nothing it wrote is believed.

Every step is by descriptor and follows no link, so that no path leads out of the directory. A file is read once, bounded; what
is then checked is what is installed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from types import TracebackType

from hsmd.deployment import pair
from hsmd.deployment.pair import Pair
from hsmd.deployment.version_directories import CURRENT, VERSION
from hsmd.deployment.versions import CHAIN, DIRECTORY, REFERENCE, SWITCHED
from hsmd.errors import BadRequest

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
"""O_NONBLOCK: a named pipe, or a file on which a lease is held, makes no caller wait."""


class Written:
    """Chain and key reference as the agent wrote them; a value of bytes, not checked."""

    __slots__ = ("chain", "name", "reference")

    def __init__(self, name: str, chain: bytes, reference: bytes) -> None:
        self.name, self.chain, self.reference = name, chain, reference

    def parse(self) -> Pair:
        """The pair. Raises BadRequest."""
        return pair.parse(self.name, self.chain, self.reference)


class AgentDirectory:
    """The certificates below the state directory of an agent; a context manager. Raises OSError if there is no such directory."""

    def __init__(self, state: Path) -> None:
        self._state = os.open(state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._certificates = _enter(DIRECTORY, self._state)
        except BaseException:
            os.close(self._state)
            raise

    def __enter__(self) -> AgentDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._certificates is not None:
            os.close(self._certificates)
        os.close(self._state)

    def take_notice(self) -> None:
        """Remove what says that something was switched: what is switched from now on says so again. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(SWITCHED, dir_fd=self._state)

    def read(self, name: str) -> Written | None:
        """What is current for the key `name`; None if the agent has nothing for it. Raises BadRequest that names the fault."""
        pair.check_name(name)
        if self._certificates is None:
            return None
        try:
            home = _enter(name, self._certificates)
            if home is None:
                return None
            try:
                return _read_current(name, home)
            finally:
                os.close(home)
        except OSError as error:
            raise BadRequest(f"the agent's directory for it cannot be read: {_reason(error)}") from None


def _read_current(name: str, home: int) -> Written | None:
    try:
        version = os.readlink(CURRENT, dir_fd=home)
    except FileNotFoundError:
        return None
    if not VERSION.fullmatch(version):
        raise BadRequest("`current` does not lead to a version beside it")
    directory = _enter(version, home)
    if directory is None:
        raise BadRequest("`current` leads nowhere")
    try:
        chain = _content(CHAIN, directory, pair.MAX_CHAIN_BYTES)
        return Written(name, chain, _content(REFERENCE, directory, pair.MAX_REFERENCE_BYTES))
    finally:
        os.close(directory)


def _enter(name: str, directory: int) -> int | None:
    """A descriptor of the directory `name` in another one, None if there is none. Raises OSError."""
    try:
        return os.open(name, _DIRECTORY_FLAGS, dir_fd=directory)
    except FileNotFoundError:
        return None


def _content(name: str, directory: int, limit: int) -> bytes:
    """The bytes of a regular file that has no other name. Raises BadRequest or OSError."""
    with open(os.open(name, _FILE_FLAGS, dir_fd=directory), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise BadRequest(f"{name} is not a regular file")
        if found.st_nlink != 1:
            raise BadRequest(f"{name} has another name, too")
        content = file.read(limit + 1)
    if len(content) > limit:
        raise BadRequest(f"{name} has more than {limit} bytes")
    return content


def _reason(error: OSError) -> str:
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return "there is a link, or a file, where a directory should be"
    return error.strerror or str(error)
