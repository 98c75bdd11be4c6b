"""What the notes have in common in which an operator declares something: a title, a line for each member, the signature."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from hsmd.errors import BadRequest, ProofInvalid, ProtocolError
from hsmd.transparency.note import Note, Verifier, signed, to_be_signed

OPERATOR = "hsmd/operator"
"""The name operators sign under; the key id distinguishes their keys."""
MAX_REASON_CHARACTERS = 200
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z\Z")


class OperatorKey(Protocol):
    """What signs for an operator: an Ed25519 private key, or an agent that holds one."""

    def public_key(self) -> Ed25519PublicKey:
        """The public half."""
        ...

    def sign(self, data: bytes, /) -> bytes:
        """The signature, 64 bytes."""
        ...


def operator_verifier(public_key_line: str) -> Verifier:
    """The key of an operator, from an OpenSSH public key line. Raises ProtocolError unless it is Ed25519."""
    try:
        key = load_ssh_public_key(" ".join(public_key_line.split()[:2]).encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ProtocolError("an operator's key is an OpenSSH Ed25519 public key: ssh-ed25519 AAAA...")
    return Verifier.from_public_key(OPERATOR, key)


def check_reason_and_time(reason: str, time: str) -> None:
    """Raises BadRequest unless they are one line for people, and a time in the format of records."""
    if not reason.strip() or len(reason) > MAX_REASON_CHARACTERS or not reason.isprintable():
        raise BadRequest(f"reason: give one printable line of at most {MAX_REASON_CHARACTERS} characters")
    if not _TIME.match(time):
        raise BadRequest(f"time: {time[:40]!r} is not UTC with microseconds")


def write(title: str, members: Mapping[str, str]) -> str:
    """The text of a note."""
    return "".join([f"{title}\n", *(f"{name} {value}\n" for name, value in members.items())])


def read(text: str, title: str, names: Sequence[str], what: str) -> dict[str, str]:
    """The members in the text of a note. Raises ProtocolError, `not WHAT: ...`, for other titles or names of members."""
    lines = text.removesuffix("\n").split("\n")
    pairs = [line.partition(" ")[::2] for line in lines[1:]]
    if lines[0] != title or [name for name, _ in pairs] != list(names):
        raise ProtocolError(f"not {what}: it begins with {title!r} and has the lines {', '.join(names)}")
    return dict(pairs)


def sign(text: str, key: OperatorKey) -> Note:
    """The note with this text, signed with an operator's key."""
    verifier = Verifier.from_public_key(OPERATOR, key.public_key())
    return signed(text, verifier, [key.sign(to_be_signed(text))])


def signers(note: Note, operators: Iterable[Verifier]) -> list[Verifier]:
    """The operators' keys that the signature lines of a note name, each once. The signatures are not verified here."""
    known = {operator.key_id: operator for operator in operators}
    named = [one.key_id for one in note.signatures if one.name == OPERATOR and one.key_id in known]
    return [known[key_id] for key_id in dict.fromkeys(named)]


def verify(note: str | Note, operators: Iterable[Verifier], unknown: str) -> str:
    """The text of a note that is signed by one of the operators' keys.

    Raises ProtocolError if it is no note, ProofInvalid with the text `unknown` if none of the keys signed it.
    """
    if isinstance(note, str):
        note = Note.parse(note)
    mine = signers(note, operators)
    if not mine:
        raise ProofInvalid(unknown)
    for operator in mine:
        operator.verify(note)
    return note.text
