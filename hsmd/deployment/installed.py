"""The file in which root's side says what servers have loaded, for the agent, which reports it to the daemons."""

from __future__ import annotations

from pathlib import Path

import msgspec

from hsmd.system import atomic_file
from hsmd.system.input_files import read_file

DEFAULT = Path("/var/lib/hsmd-agent-deploy/installed.json")
MAX_BYTES = 16 << 20
_PUBLIC = 0o644


class Certificate(msgspec.Struct, frozen=True):
    """What is served for a key: `leaf` is the SHA-256 of the leaf's DER, in hexadecimal."""

    key: str
    leaf: str


class Installed(msgspec.Struct):
    """`pending`: names of servers that have to be reloaded again, because they could not be."""

    certificates: list[Certificate] = []
    pending: list[str] = []
    version: int = 1


def read(path: Path) -> Installed:
    """The file's content; nothing if there is none, or it cannot be read."""
    try:
        return msgspec.json.decode(read_file(path, MAX_BYTES), type=Installed)
    except (OSError, msgspec.MsgspecError, ValueError):
        return Installed()


def write(path: Path, installed: Installed) -> None:
    """Replace the file, unless it says the same. Raises OSError."""
    content = msgspec.json.encode(installed)
    try:
        if read_file(path, MAX_BYTES) == content:
            return
    except OSError:
        pass
    atomic_file.replace(path, content, _PUBLIC)
