"""Audit records: what one line of the log says, and its one canonical form (docs/audit.md).

A line is canonical JSON in printable ASCII: members in the order of `Record`, empty members left out, no
spaces, every character outside 0x20 to 0x7e written as an escape. So no name, however hostile, can end a
line, move a cursor or look like another record (facts: log injection), and the bytes of a record follow from
its values alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from hsmd.errors import ProtocolError

MAX_TEXT_CHARACTERS = 256
"""Longest text member; what is longer is cut and ends in U+2026."""
MAX_FIELDS = 16
MAX_LINE_BYTES = 65_536
"""No record is longer: text is capped, and an escaped character takes at most 12 bytes."""

RESULTS = frozenset({"performed", "refused", "not-performed", "unknown", "failed"})
"""How a use of a key can end; `unknown`: begun, and nobody can say whether the token finished."""

_Text = Annotated[str, Meta(max_length=MAX_TEXT_CHARACTERS)]
_Digest = Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")]
_FieldName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}\Z")]
_Count = Annotated[int, Meta(ge=0, lt=1 << 53)]
_FieldNumber = Annotated[int, Meta(gt=-(1 << 53), lt=1 << 53)]


class Record(Struct, omit_defaults=True, forbid_unknown_fields=True, frozen=True):
    """One record. The order of the members here is their order on the line; a member at its default is left out.

    `previous` is the leaf hash of the record before; `time` when the record was written (UTC); `key`,
    `asked` and `answer` are SHA-256 in hex: of the key's DER SubjectPublicKeyInfo, of what was asked and of what was returned;
    `scheme` four hex digits; `attempt` the index of the attempt whose outcome this is.
    """

    index: _Count
    previous: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    time: Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z\Z")]
    event: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9.-]{0,63}\Z")]
    client: _Text = ""
    credential: _Text = ""
    key_name: _Text = ""
    key: _Digest = ""
    purpose: _Text = ""
    scheme: Annotated[str, Meta(pattern=r"^([0-9a-f]{4})?\Z")] = ""
    asked: _Digest = ""
    rule: _Text = ""
    attempt: _Count | None = None
    result: Annotated[str, Meta(max_length=16)] = ""
    answer: _Digest = ""
    error: _Text = ""
    fields: Annotated[dict[_FieldName, _Text | _FieldNumber], Meta(max_length=MAX_FIELDS)] = {}


_USE = frozenset({"client", "credential", "key", "purpose", "scheme", "asked"})
_SHAPES: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "attempt": (frozenset({"key", "purpose", "scheme", "asked"}), _USE | {"key_name"}),
    "outcome": (frozenset({"attempt", "result"}), frozenset({"attempt", "result", "answer", "error"})),
    "refusal": (frozenset({"key", "purpose", "scheme", "asked", "rule"}), _USE | {"rule"}),
}
"""Members that records of key operations must have and may have, besides the first four."""
_EVENT_SHAPE = (frozenset[str](), frozenset({"client", "fields"}))
_BODY_MEMBERS = Record.__struct_fields__[4:]

# Sorted keys inside `fields`; the members of the record itself keep their order.
_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(Record)

_NOT_PRINTABLE_ASCII = re.compile(r"[^\x20-\x7e]")
_SURROGATES = re.compile("[\ud800-\udfff]")


def to_wire(record: Record) -> bytes:
    """The record as its line, without the line feed."""
    text = _encoder.encode(record).decode()
    if text.isascii() and "\x7f" not in text:
        return text.encode()
    return _NOT_PRINTABLE_ASCII.sub(_escape, text).encode()


def parse_record(line: bytes) -> Record:
    """The record of a line (without line feed).

    Raises ProtocolError unless `to_wire` of it gives the same bytes.
    """
    if len(line) > MAX_LINE_BYTES:
        raise ProtocolError(f"not an audit record: longer than {MAX_LINE_BYTES} bytes")
    try:
        record = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise ProtocolError(f"not an audit record: {problem}") from None
    if to_wire(record) != line:
        raise ProtocolError("not an audit record: not in canonical form")
    _check_shape(record)
    return record


def _check_shape(record: Record) -> None:
    required, allowed = _SHAPES.get(record.event, _EVENT_SHAPE)
    present = {name for name in _BODY_MEMBERS if getattr(record, name) not in ("", None, {})}
    if not required <= present <= allowed:
        wrong = ", ".join(sorted((required - present) | (present - allowed)))
        raise ProtocolError(f"not an audit record: {record.event} with wrong members: {wrong}")
    if record.event == "outcome" and record.result not in RESULTS:
        raise ProtocolError("not an audit record: unknown result of an outcome")


def _escape(match: re.Match[str]) -> str:
    """A character as JSON escapes: one \\uXXXX, or two for what lies beyond the basic plane (RFC 8259, section 7)."""
    units = match.group().encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def bounded(text: str) -> str:
    """`text` as a record holds it: lone surrogates become U+FFFD, and what is longer than the cap is cut."""
    if len(text) > MAX_TEXT_CHARACTERS:
        text = text[: MAX_TEXT_CHARACTERS - 1] + "\u2026"
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def format_time(moment: datetime) -> str:
    """An aware time as records write it: UTC, microseconds, `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


# --- building lines quickly ---
#
# A line is `head` (index, previous, time: known only when it is written) and `tail` (everything after).
# Tails are made when something happens; the text of an attempt's tail before its `asked` differs only by
# grant and is kept by the caller.

_NO_DIGEST = "0" * 64
_PLACEHOLDER = {"index": 0, "previous": "", "time": ""}
_PLACEHOLDER_LENGTH = len('{"index":0,"previous":"","time":""')


def tail(event: str, **members: object) -> str:
    """The line of a record from `event` on, for `line`. Texts must be `bounded`."""
    record = Record(**_PLACEHOLDER, event=event, **members)  # type: ignore[arg-type]
    return to_wire(record)[_PLACEHOLDER_LENGTH:].decode()


def attempt_stem(client: str, credential: str, key_name: str, key: bytes, purpose: str, scheme: int) -> str:
    """The tail of an attempt up to the value of `asked`; `attempt_tail` completes it.

    `scheme`: a TLS SignatureScheme, 0 for decryption. Raises ProtocolError for what no record can hold.
    """
    made = tail(
        "attempt",
        client=bounded(client),
        credential=bounded(credential),
        key_name=bounded(key_name),
        key=key.hex(),
        purpose=bounded(purpose),
        scheme=f"{scheme:04x}",
        asked=_NO_DIGEST,
    )
    parse_tail(made)
    return made.removesuffix(f'{_NO_DIGEST}"}}')


def attempt_tail(stem: str, asked: str) -> str:
    """The tail of an attempt; `asked` is a SHA-256 in hex."""
    return f'{stem}{asked}"}}'


def outcome_tail(attempt: int, result: str, answer: str, error: str = "") -> str:
    """The tail of an outcome; `answer` is a SHA-256 in hex or empty."""
    if answer and not error:
        return f',"event":"outcome","attempt":{attempt},"result":"{result}","answer":"{answer}"}}'
    return tail("outcome", attempt=attempt, result=result, answer=answer, error=bounded(error))


def refusal_tail(
    client: str, credential: str, key: bytes, purpose: str, scheme: int, asked: str, rule: str
) -> str:
    """The tail of a refusal; `asked` is a SHA-256 in hex.

    Raises ProtocolError for what no record can hold.
    """
    made = tail(
        "refusal",
        client=bounded(client),
        credential=bounded(credential),
        key=key.hex(),
        purpose=bounded(purpose),
        scheme=f"{scheme:04x}",
        asked=asked,
        rule=bounded(rule),
    )
    parse_tail(made)
    return made


def event_tail(name: str, client: str, fields: Mapping[str, str | int]) -> str:
    """The tail of a named event. Raises ProtocolError for a name or field that no record can have."""
    if name in _SHAPES:
        raise ProtocolError(f"{name} is not the name of an event")
    texts = {key: value if type(value) is int else bounded(str(value)) for key, value in fields.items()}
    try:
        made = tail(name, client=bounded(client), fields=texts)
    except OverflowError:
        raise ProtocolError(f"a number of the event {name} is too large; give it as text") from None
    parse_tail(made)
    return made


def line(index: int, previous: str, time: str, tail: str) -> bytes:
    """The line of a record, without line feed, from its changing head and its tail."""
    return f'{{"index":{index},"previous":"{previous}","time":"{time}"{tail}'.encode()


def parse_tail(tail: str) -> Record:
    """What a tail says, with placeholders for the head. Raises ProtocolError as `parse_record`."""
    return parse_record(line(0, _NO_DIGEST, "2000-01-01T00:00:00.000000Z", tail))
