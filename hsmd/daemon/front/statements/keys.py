"""Which of the stored keys signs statements, and which verifier keys clients pin.

The daemons of one store sign with the same key, each under its own name. A new key signs only after an operator has endorsed it,
so that no client receives a statement by a key that it has no reason to accept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hsmd.daemon.store.records import KeyRecord
from hsmd.errors import ProtocolError
from hsmd.transparency.endorsement import Endorsement, material_of, parse_text
from hsmd.transparency.note import Note, Verifier
from hsmd.transparency.statement import signer_of

_ANY = "any"


@dataclass(frozen=True, slots=True)
class StatementKeys:
    """The stored keys: `signing` signs (None if there is no key), `former` ones did, `waiting` ones are not endorsed."""

    signing: KeyRecord | None
    former: tuple[KeyRecord, ...] = ()
    waiting: tuple[KeyRecord, ...] = ()

    @property
    def to_pin(self) -> tuple[KeyRecord, ...]:
        """The keys whose statements are to be accepted, the signing one first."""
        return (self.signing, *self.former) if self.signing else ()


def sort_keys(newest_first: Sequence[KeyRecord], notes: Iterable[str]) -> StatementKeys:
    """Sort the stored keys by what the stored endorsements (newest last) say of them.

    Without an endorsement of any of them the oldest one signs, the only one that clients can have pinned.
    """
    keys = {material(key): key for key in newest_first}
    if not keys:
        return StatementKeys(None)
    declared = _endorsements(notes)
    endorsed = [note.new for note in declared if note.new in keys]
    signing = endorsed[-1] if endorsed else material(newest_first[-1])
    accepted = {note.old for note in declared} | set(endorsed)
    others = [(name, key) for name, key in keys.items() if name != signing]
    return StatementKeys(
        keys[signing],
        former=tuple(key for name, key in others if name in accepted),
        waiting=tuple(key for name, key in others if name not in accepted),
    )


def material(key: KeyRecord) -> str:
    """A key without the name that it signs under, as endorsements name it."""
    return material_of(Verifier.from_spki(_ANY, key.public_key))


def verifier_keys(key: KeyRecord, daemons: Iterable[str]) -> list[str]:
    """The verifier key line of a key for each daemon."""
    return [Verifier.from_spki(signer_of(daemon), key.public_key).vkey for daemon in daemons]


def _endorsements(notes: Iterable[str]) -> list[Endorsement]:
    """What the stored notes declare; their signatures were verified before they were stored."""
    found = []
    for note in notes:
        try:
            found.append(parse_text(Note.parse(note).text))
        except ProtocolError:
            continue  # of a later release
    return found
