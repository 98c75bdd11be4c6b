"""Confirmations: the lines of a statement of the kind `vault-confirmation`, with which a daemon notes what an operator did.

The note is the anchor of a first management key outside of the database: a row alone proves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hsmd.envelopes.vault import fields, lines as texts

KIND = "vault-confirmation"
_WHAT = "confirmation"
_CHECK = fields.Check(_WHAT)
_NAMES = ("owner", "management-key", "number", "operator", "at")


@dataclass(frozen=True, slots=True)
class Confirmation:
    """That `operator` confirmed the fingerprint of a management key. Raises EnvelopeInvalid for what cannot be one."""

    owner: str
    management_key: str
    """SHA-256 in hex of the text of the management-key statement."""
    number: int
    operator: str
    at: str

    def __post_init__(self) -> None:
        _CHECK.name("owner", self.owner)
        _CHECK.digest("management-key", self.management_key)
        _CHECK.count("number", self.number, 1)
        _CHECK.name("operator", self.operator)
        _CHECK.time("at", self.at)

    def lines(self) -> tuple[str, ...]:
        """The lines of the statement."""
        values = (self.owner, self.management_key, str(self.number), self.operator, self.at)
        return texts.write(dict(zip(_NAMES, values, strict=True)))

    @classmethod
    def from_lines(cls, lines: Sequence[str]) -> Confirmation:
        """The confirmation in the lines of a statement. Raises EnvelopeInvalid unless `lines` makes exactly these of it."""
        found = texts.read(lines, _NAMES, _WHAT)
        number = texts.number(found["number"], _WHAT, "number", fields.MAX_COUNT)
        return cls(found["owner"], found["management-key"], number, found["operator"], found["at"])
