"""Positions in the ledger of events, as clients keep them and give them back: `EPOCH.NUMBER`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hsmd.errors import BadRequest

EPOCH_DIGITS = 8
MAX_NUMBER = 2**63 - 1
_FORM = re.compile(rf"([0-9a-f]{{{EPOCH_DIGITS}}})\.(0|[1-9][0-9]{{0,18}})")
_LONGEST_ECHO = 64


@dataclass(frozen=True, slots=True)
class Cursor:
    """The position after event `number` of `epoch`, and the identity of that event; 0 is before the first one.

    Numbers grow with time within an epoch. An epoch begins when a store is made or restored from a backup.
    """

    epoch: str
    number: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.number}"

    @classmethod
    def parse(cls, text: str, member: str = "since") -> Cursor:
        """The cursor that a client gave in `member`. Raises BadRequest, which repeats the text, for anything else."""
        found = _FORM.fullmatch(text)
        if found is None or int(found[2]) > MAX_NUMBER:
            raise BadRequest(
                f"{member}: {text[:_LONGEST_ECHO]!r} is not a cursor; give one as `hsmd events` prints it, "
                "like 5f3a9c1e.1042"
            )
        return cls(found[1], int(found[2]))
