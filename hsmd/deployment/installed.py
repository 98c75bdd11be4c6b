"""The file in which root's side says what servers have loaded, for the agent, which reports it to the daemons."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from hsmd.protocol.messages import Name
from hsmd.system import atomic_file
from hsmd.system.directories import make_shared
from hsmd.system.input_files import read_file

FILE_NAME = "installed.json"
_SYSTEM_STATE = Path("/var/lib/hsmd-agent")
_SYSTEM_DIRECTORY = Path("/var/lib/hsmd-agent-deploy")
MAX_BYTES = 16 << 20
_PUBLIC = 0o644


class Certificate(msgspec.Struct, frozen=True):
    """What is served for a key: `leaf` is the SHA-256 of the leaf's DER, in hexadecimal."""

    key: Name
    leaf: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


class Installed(msgspec.Struct):
    """`pending`: names of servers that have to be reloaded again, because they could not be."""

    certificates: list[Certificate] = []
    pending: list[str] = []
    version: int = 1


def path_for(state: Path) -> Path:
    """The file for the agent with this state directory: root's own for the system's agent, otherwise in that directory."""
    return (_SYSTEM_DIRECTORY if state == _SYSTEM_STATE else state) / FILE_NAME


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
    make_shared(path.parent)
    atomic_file.replace(path, content, _PUBLIC)
