"""Checkpoints as C2SP tlog-checkpoint defines them: notes that state the size of a log and the root of its tree."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

from hsmd.errors import ProofInvalid, ProtocolError
from hsmd.transparency.keyring import KeyRing
from hsmd.transparency.merkle import HASH_BYTES
from hsmd.transparency.note import Note, Verifier

_OF_DAEMONS = "hsmd/"
_ORIGIN = re.compile(r"hsmd/[A-Za-z0-9._-]{1,64}\Z", re.ASCII)
_SIZE = re.compile(r"(0|[1-9][0-9]{0,15})\Z", re.ASCII)


def origin_of(daemon_name: str) -> str:
    """The origin of a daemon's log."""
    return f"{_OF_DAEMONS}{daemon_name}"


def daemon_of(origin: str) -> str:
    """The name of the daemon whose log has this origin; empty if no daemon's log has it."""
    return origin.removeprefix(_OF_DAEMONS) if origin.startswith(_OF_DAEMONS) else ""


def is_origin(text: str) -> bool:
    """Whether `text` can be the origin of a daemon's log."""
    return _ORIGIN.match(text) is not None


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


def parse_signed(note: str | bytes, keys: KeyRing) -> Checkpoint:
    """The checkpoint in a note that one of `keys` has signed under the log's own name.

    Signatures of other keys, and those under other names, such as a witness's, are ignored wherever they stand; a wrong one
    by a known key invalidates the note. Raises ProtocolError if it is not a checkpoint, ProofInvalid for its signatures.
    """
    parsed = Note.parse(note)
    checkpoint = parse_text(parsed.text)
    signers = [keys.find(one.name, one.key_id) for one in parsed.signatures if one.name == checkpoint.origin]
    known = [verifier for verifier in signers if verifier is not None]
    if not known:
        raise ProofInvalid(f"no signature by a key that was given, under the name {checkpoint.origin}")
    for verifier in known:
        verifier.verify(parsed)
    return checkpoint


def parse_text(text: str) -> Checkpoint:
    """The checkpoint in the text of a note. Raises ProtocolError.

    Extension lines, which hsmd never writes, are refused: their content cannot be verified.
    """
    lines = text.removesuffix("\n").split("\n")
    if len(lines) != 3 or not is_origin(lines[0]) or not _SIZE.match(lines[1]):
        raise ProtocolError("not a checkpoint: it has three lines, the origin hsmd/NAME, size and root")
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
