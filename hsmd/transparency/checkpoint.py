"""Checkpoints as C2SP tlog-checkpoint defines them: notes that state the size of a log and the root of its tree."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

from hsmd.errors import ProofInvalid, ProtocolError
from hsmd.transparency.merkle import HASH_BYTES
from hsmd.transparency.note import Note, Verifier

_OF_DAEMONS = "hsmd/"
_SIZE = re.compile(r"(0|[1-9][0-9]{0,15})\Z", re.ASCII)


def origin_of(daemon_name: str) -> str:
    """The origin of a daemon's log."""
    return f"{_OF_DAEMONS}{daemon_name}"


def daemon_of(origin: str) -> str:
    """The name of the daemon whose log has this origin; empty if no daemon's log has it."""
    return origin.removeprefix(_OF_DAEMONS) if origin.startswith(_OF_DAEMONS) else ""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a log: `origin` names it, `size` counts its records, `root` is the root of their tree (32 bytes)."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The text of the note: three lines."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def parse(note: str | Note, verifier: Verifier) -> Checkpoint:
    """The checkpoint in a note signed by the key of `verifier`, under the log's own name.

    Raises ProtocolError if the note is not a checkpoint, ProofInvalid if the signature is missing or wrong.
    """
    if isinstance(note, str):
        note = Note.parse(note)
    verifier.verify(note)
    checkpoint = parse_text(note.text)
    if checkpoint.origin != verifier.name:
        raise ProofInvalid(f"a checkpoint of {checkpoint.origin}, signed under the name {verifier.name}")
    return checkpoint


def parse_text(text: str) -> Checkpoint:
    """The checkpoint in the text of a note. Raises ProtocolError.

    Extension lines, which hsmd never writes, are refused: their content cannot be verified.
    """
    lines = text.removesuffix("\n").split("\n")
    if len(lines) != 3 or not lines[0] or not _SIZE.match(lines[1]):
        raise ProtocolError("not a checkpoint: it has three lines, origin, size and root")
    checkpoint = Checkpoint(lines[0], int(lines[1]), _root(lines[2]))
    if checkpoint.text() != text:
        raise ProtocolError("not a checkpoint: its root is not in canonical base64")
    return checkpoint


def _root(encoded: str) -> bytes:
    try:
        root = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        root = b""
    if len(root) != HASH_BYTES:
        raise ProtocolError(f"not a checkpoint: its root has {HASH_BYTES} bytes, in base64")
    return root
