"""Members of the vault's texts: canonical JSON objects with a fixed set of members, each of them checked.

Every check raises EnvelopeInvalid, whose text begins with what the text is and names the member.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import TypeVar

from hsmd.envelopes import canonical_json
from hsmd.errors import EnvelopeInvalid

MAX_TEXT_BYTES = 8_192
"""Of any text that an owner signs. The longest has two RSA keys of 8192 bits in it."""
MAX_COUNT = 1_000_000_000
"""Largest number of a statement, version, and maximum of uses."""
MAX_REASON_CHARACTERS = 256
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}\Z")
_DAEMON = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_VERB = re.compile(r"[a-z]+(?:[.-][a-z]+)*\Z")
MAX_VERB_CHARACTERS = 64
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_HEX = re.compile(r"(?:[0-9a-f]{2})+\Z")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\Z")

Choice = TypeVar("Choice", bound=StrEnum)


def format_time(moment: datetime) -> str:
    """An aware time as the vault's texts have it: UTC, whole seconds (rounded down), `Z`."""
    return moment.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def parse_time(text: str) -> datetime:
    """The aware time of `YYYY-MM-DDTHH:MM:SSZ`. Raises EnvelopeInvalid for every other form."""
    if _TIME.match(text):
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            pass  # such as 30 February
    raise EnvelopeInvalid(f"{text[:40]!r} is not a time as 2026-01-31T23:59:59Z")


def decode(data: bytes, what: str, form: str, names: frozenset[str]) -> dict[str, object]:
    """The members, without `format`, of the canonical JSON object `data`. Raises EnvelopeInvalid.

    `what` is the kind of text in words, `form` the value that the member `format` must have.
    """
    if len(data) > MAX_TEXT_BYTES:
        raise EnvelopeInvalid(f"{what}: longer than {MAX_TEXT_BYTES} bytes")
    members = canonical_json.decode(data)
    if not isinstance(members, dict) or members.get("format") != form:
        raise EnvelopeInvalid(f"{what}: its format is not {form}")
    if set(members) != names | {"format"}:
        raise EnvelopeInvalid(f"{what}: its members are not {', '.join(sorted(names | {'format'}))}")
    del members["format"]
    return members


def encode(what: str, form: str, members: Mapping[str, object]) -> bytes:
    """The canonical text with these members and `format`. Raises EnvelopeInvalid if it is too long."""
    text = canonical_json.encode({**members, "format": form})
    if len(text) > MAX_TEXT_BYTES:
        raise EnvelopeInvalid(f"{what}: longer than {MAX_TEXT_BYTES} bytes")
    return text


class Check:
    """Checks of the members of one kind of text, named `what` in errors."""

    def __init__(self, what: str) -> None:
        self._what = what

    def fault(self, member: str, problem: str) -> EnvelopeInvalid:
        """The error that says what is wrong with a member."""
        return EnvelopeInvalid(f"{self._what}: {member} {problem}")

    def name(self, member: str, value: object) -> str:
        """The name of an owner, a client or a record."""
        if not isinstance(value, str) or not _NAME.match(value):
            raise self.fault(member, "is not a name: 1 to 64 of a-z, A-Z, 0-9, . _ -, and not . _ - first")
        return value

    def daemon(self, member: str, value: object) -> str:
        """The name of a daemon, as the second line of statements has it."""
        if not isinstance(value, str) or not _DAEMON.match(value):
            raise self.fault(member, "is not the name of a daemon")
        return value

    def verb(self, member: str, value: object) -> str:
        """The `op` of a control request."""
        if not isinstance(value, str) or len(value) > MAX_VERB_CHARACTERS or not _VERB.match(value):
            raise self.fault(member, "is not the name of a request")
        return value

    def digest(self, member: str, value: object, *, optional: bool = False) -> str:
        """A SHA-256 in hex; the empty string too, if `optional`."""
        if not isinstance(value, str) or not (_DIGEST.match(value) or (optional and value == "")):
            raise self.fault(member, "is not a SHA-256 in hex")
        return value

    def octets(self, member: str, value: object) -> bytes:
        """The bytes that `value` has in hex, at least one."""
        if not isinstance(value, str) or not _HEX.match(value):
            raise self.fault(member, "is not bytes in lower-case hex")
        return bytes.fromhex(value)

    def count(self, member: str, value: object, least: int) -> int:
        """An integer from `least` to MAX_COUNT."""
        if type(value) is not int or not least <= value <= MAX_COUNT:
            raise self.fault(member, f"is not an integer from {least} to {MAX_COUNT}")
        return value

    def time(self, member: str, value: object, *, optional: bool = False) -> str:
        """A time as `format_time` writes it; the empty string too, if `optional`."""
        if optional and value == "":
            return ""
        try:
            parse_time(value if isinstance(value, str) else "")
        except EnvelopeInvalid:
            raise self.fault(member, "is not a time as 2026-01-31T23:59:59Z") from None
        return str(value)

    def reason(self, member: str, value: object) -> str:
        """Words for people: printable, on one line; may be empty."""
        if not isinstance(value, str) or len(value) > MAX_REASON_CHARACTERS or not value.isprintable():
            raise self.fault(
                member, f"is not one printable line of at most {MAX_REASON_CHARACTERS} characters"
            )
        return value

    def choice(self, member: str, value: object, among: type[Choice]) -> Choice:
        """The member of an enumeration with this value."""
        try:
            return among(str(value))
        except ValueError:
            raise self.fault(member, f"is none of {', '.join(among)}") from None
