"""The files of a witness: for each log, a small file with the newest checkpoint accepted, replaced atomically."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import msgspec

from hsmd.errors import ConfigurationError
from hsmd.system import atomic_file

MAX_FILE_BYTES = 1 << 20
MAX_ORIGIN_BYTES = 150
MAX_ADDRESSES = 64
_PRIVATE_DIRECTORY, _PRIVATE_FILE = 0o700, 0o600
_LOCK = ".lock"


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """The newest accepted state of one log.

    `addresses` are those of the daemons that serve it; `size`, `root` (hex) and `note` are the checkpoint's, `key` is its
    verifier key. `discontinuity` is the time of the newest operator's declaration shown, empty for none; `accepted` is the
    text of the declaration by which a break was accepted, for display.
    """

    version: int = 1
    origin: str
    addresses: list[str]
    key: str
    size: int
    root: str
    note: str
    discontinuity: str = ""
    accepted: str = ""


class Memories:
    """The files of one witness, in a directory of its own (0700). Every method reads or writes the files; nothing is cached."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def of_address(self, address: str) -> Memory | None:
        """The state of the log served at `address`. Raises ConfigurationError for a damaged file."""
        return next((memory for memory in self.all() if address in memory.addresses), None)

    def of_origin(self, origin: str) -> Memory | None:
        """The state of the log `origin`. Raises ConfigurationError for a damaged file."""
        return self._read(self.path(origin))

    def all(self) -> list[Memory]:
        """The states of all logs, ordered by origin. Raises ConfigurationError for a damaged file."""
        found = (self._read(path) for path in sorted(self.directory.glob("*.json")))
        return [memory for memory in found if memory is not None]

    def store(self, memory: Memory, known: Memory | None) -> bool:
        """Replace the stored state `known` of a log by `memory`; return False, without a change, if another state is stored.

        Raises ConfigurationError if it cannot be written: an unwritten checkpoint must not count as accepted.
        """
        try:
            with self._locked():
                if self.of_origin(memory.origin) != known:
                    return False
                atomic_file.replace(self.path(memory.origin), msgspec.json.encode(memory))
                return True
        except OSError as error:
            raise ConfigurationError("witness", [f"{self.directory}: {error.strerror}"]) from None

    def forget(self, origin: str) -> bool:
        """Remove the state of a log; return whether there was one. Raises ConfigurationError."""
        try:
            with self._locked():
                self.path(origin).unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise ConfigurationError("witness", [f"{self.directory}: {error.strerror}"]) from None
        return True

    def path(self, origin: str) -> Path:
        """The file of a log."""
        return self.directory / f"{quote(origin, safe='')}.json"

    def _read(self, path: Path) -> Memory | None:
        try:
            with path.open("rb") as file:
                return msgspec.json.decode(file.read(MAX_FILE_BYTES), type=Memory)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            fault = f"{path} cannot be used: {error}; what was seen of that log is lost: find out why, then remove the file"
            raise ConfigurationError("witness", [fault]) from None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.directory.mkdir(mode=_PRIVATE_DIRECTORY, parents=True, exist_ok=True)
        descriptor = os.open(self.directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE_FILE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
