"""Answers to checks of public keys: the lines of a statement of the kind `vault-answer`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from hsmd.envelopes.vault import fields, lines as texts
from hsmd.envelopes.vault.life_cycle import NO_LIMIT, Reason, State
from hsmd.errors import EnvelopeInvalid

KIND = "vault-answer"
MIN_NONCE_BYTES, MAX_NONCE_BYTES = 16, 32
_WHAT = "answer"
_CHECK = fields.Check(_WHAT)
_NONCE = re.compile(r"(?:[0-9a-f]{2}){16,32}\Z")
_QUESTION = ("asker", "owner", "key", "nonce", "verdict")
_RECORD = ("record", "version", "state", "reason", "not-before", "not-after", "uses-left", "usable")
_END = ("at",)
_YES, _NO = "yes", "no"


class Verdict(StrEnum):
    """What a public key is to an owner."""

    MATCH = "match"
    """The newest version of one of the owner's records."""
    MATCH_PREVIOUS = "match-previous"
    """An earlier version."""
    MISMATCH = "mismatch"
    """None of the owner's keys, or not of the record that was asked about."""
    NO_ANSWER = "no-answer"
    """The owner is not known, or the asker may not ask."""


MATCHES = frozenset({Verdict.MATCH, Verdict.MATCH_PREVIOUS})


@dataclass(frozen=True, slots=True)
class Answer:
    """What a daemon answered to `asker`. Raises EnvelopeInvalid for what no answer can say.

    From `record` to `usable` it says something only for a match; for the other verdicts these have their defaults.
    """

    asker: str
    owner: str
    key: str
    """SHA-256 in hex of the SubjectPublicKeyInfo that was asked about."""
    nonce: str
    """The asker's, 16 to 32 bytes in hex."""
    verdict: Verdict
    at: str
    record: str = ""
    version: int = 0
    state: State | None = None
    reason: Reason = Reason.NONE
    not_before: str = ""
    not_after: str = ""
    uses_left: int = NO_LIMIT
    usable: bool = False
    """Whether the asker may rely on the key."""

    def __post_init__(self) -> None:
        _CHECK.name("asker", self.asker)
        _CHECK.name("owner", self.owner)
        _CHECK.digest("key", self.key)
        _CHECK.time("at", self.at)
        if not _NONCE.match(self.nonce):
            raise _CHECK.fault(
                "nonce", f"is not {MIN_NONCE_BYTES} to {MAX_NONCE_BYTES} bytes in lower-case hex"
            )
        if self.verdict in MATCHES:
            self._check_match()
        elif self._record_facts() != _NO_FACTS:
            raise EnvelopeInvalid(f"{_WHAT}: the verdict {self.verdict} says nothing about a record")

    def _check_match(self) -> None:
        _CHECK.name("record", self.record)
        _CHECK.count("version", self.version, 1)
        _CHECK.time("not-before", self.not_before, optional=True)
        _CHECK.time("not-after", self.not_after, optional=True)
        _CHECK.count("uses-left", self.uses_left, NO_LIMIT)
        if self.state is None:
            raise _CHECK.fault("state", "is missing")
        if self.usable and (self.verdict, self.state) != (Verdict.MATCH, State.ACTIVE):
            raise _CHECK.fault("usable", "is yes for a key that is not the newest version, or not active")

    def _record_facts(self) -> tuple[object, ...]:
        return (
            self.record, self.version, self.state, self.reason, self.not_before, self.not_after, self.uses_left, self.usable,
        )  # fmt: skip

    def lines(self) -> tuple[str, ...]:
        """The lines of the statement."""
        members = dict(
            zip(_QUESTION, (self.asker, self.owner, self.key, self.nonce, self.verdict.value), strict=True)
        )
        if self.state is not None:
            members |= {
                "record": self.record,
                "version": str(self.version),
                "state": self.state.value,
                "reason": self.reason.value,
                "not-before": self.not_before or texts.NONE,
                "not-after": self.not_after or texts.NONE,
                "uses-left": texts.NONE if self.uses_left == NO_LIMIT else str(self.uses_left),
                "usable": _YES if self.usable else _NO,
            }
        return texts.write(members | {"at": self.at})

    @classmethod
    def from_lines(cls, lines: Sequence[str]) -> Answer:
        """The answer in the lines of a statement. Raises EnvelopeInvalid unless `lines` makes exactly these of it."""
        matches = len(lines) > len(_QUESTION) + len(_END)
        found = texts.read(lines, (*_QUESTION, *(_RECORD if matches else ()), *_END), _WHAT)
        verdict = _CHECK.choice("verdict", found["verdict"], Verdict)
        if matches != (verdict in MATCHES):
            raise EnvelopeInvalid(f"{_WHAT}: its lines do not go with the verdict {verdict}")
        question = (found["asker"], found["owner"], found["key"], found["nonce"], verdict, found["at"])
        if not matches:
            return cls(*question)
        return cls(
            *question,
            record=found["record"],
            version=texts.number(found["version"], _WHAT, "version", fields.MAX_COUNT),
            state=_CHECK.choice("state", found["state"], State),
            reason=_CHECK.choice("reason", found["reason"], Reason),
            not_before=_time(found["not-before"]),
            not_after=_time(found["not-after"]),
            uses_left=_uses(found["uses-left"]),
            usable=_is_yes(found["usable"]),
        )


_NO_FACTS = ("", 0, None, Reason.NONE, "", "", NO_LIMIT, False)


def _time(value: str) -> str:
    return "" if value == texts.NONE else value


def _uses(value: str) -> int:
    return NO_LIMIT if value == texts.NONE else texts.number(value, _WHAT, "uses-left", fields.MAX_COUNT)


def _is_yes(value: str) -> bool:
    if value not in (_YES, _NO):
        raise _CHECK.fault("usable", f"is neither {_YES} nor {_NO}")
    return value == _YES
