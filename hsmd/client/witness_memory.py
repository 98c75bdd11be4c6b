"""What a witness remembers: for each log a small file with the newest checkpoint seen, replaced atomically."""

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
    """The newest that was seen of one log.

    `addresses` are where it is served; `size`, `root` (hex) and `note` are those of the checkpoint, `key` is its verifier key.
    `discontinuity` is the time of the newest operator's declaration that was shown, empty for none; `accepted` the text of
    the one by which a break was accepted, for people.
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
    """The files of one witness, in a directory of its own (0700). All methods read or write at once, nothing is cached."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def of_address(self, address: str) -> Memory | None:
        """What is known of the log served at `address`. Raises ConfigurationError for a damaged file."""
        return next((memory for memory in self.all() if address in memory.addresses), None)

    def of_origin(self, origin: str) -> Memory | None:
        """What is known of the log `origin`. Raises ConfigurationError for a damaged file."""
        return self._read(self.path(origin))

    def all(self) -> list[Memory]:
        """Everything known, by origin. Raises ConfigurationError for a damaged file."""
        found = (self._read(path) for path in sorted(self.directory.glob("*.json")))
        return [memory for memory in found if memory is not None]

    def store(self, memory: Memory, known: Memory | None) -> bool:
        """Replace what is known of a log; False, and nothing done, if that is not what `known` says any more.

        Raises ConfigurationError if that cannot be written: a witness that forgets is none.
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
        """Whether anything was known. Raises ConfigurationError."""
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
            fault = f"{path} cannot be used: {error}; what was seen of that log is lost: look why, then remove the file"
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
