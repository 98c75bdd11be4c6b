"""Audit records: the members of a line of the log, and its one canonical form (docs/audit.md, section 1).

A line is canonical JSON in printable ASCII: members in the order of `Record`, empty members omitted, no spaces, every
character outside 0x20 to 0x7e written as an escape. So no name, however hostile, can end a line, move a cursor or look
like another record, and the values of a record determine its bytes.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from hsmd.errors import ProtocolError

MAX_TEXT_CHARACTERS = 256
"""Longest text member; longer text is cut and ends in U+2026."""
MAX_FIELDS = 16
MAX_LINE_BYTES = 65_536
"""No record is longer: the length of text is limited, and an escaped character has at most 12 bytes."""

RESULTS = frozenset({"performed", "refused", "not-performed", "unknown", "failed"})
"""How a use of a key can end; `unknown`: started, and it is not known whether the token finished."""

CHECKPOINT_EVENT = "log.checkpoint"
"""A signed checkpoint; fields: `origin`, `size`, `root` and `signature`."""
GRANT_USED_EVENT = "grant.used"
"""A use of a limited grant; its field `attempt` is the index of the attempt that it follows."""
VAULT_EVENTS = "vault."
"""Begin of the names of events about the vault; those about an owner have its name in the field `owner`."""
VAULT_ACQUIRED_EVENT = "vault.acquired"
"""An envelope of the vault was asked for with a valid proof, and counted; given out if it has the field `released`."""
MARK_EVENT = "log.mark"
"""The oldest open attempt, in the field `oldest_open`: a daemon that starts reads the log from there."""

_Text = Annotated[str, Meta(max_length=MAX_TEXT_CHARACTERS)]
_Digest = Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")]
_FieldName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}\Z")]
_Count = Annotated[int, Meta(ge=0, lt=1 << 53)]
_FieldNumber = Annotated[int, Meta(gt=-(1 << 53), lt=1 << 53)]


class Record(Struct, omit_defaults=True, forbid_unknown_fields=True, frozen=True):
    """One record. The order of the members here is their order on the line; a member at its default is omitted.

    `previous` is the leaf hash of the previous record; `time` when the record was written (UTC); `key`, `asked` and `answer`
    are SHA-256 in hex: of the key's DER SubjectPublicKeyInfo, of the requested data and of the data returned; `scheme` is
    four hex digits; `attempt` the index of the attempt whose outcome this is.
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
SHAPES: dict[str, tuple[frozenset[str], frozenset[str]]] = {
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
    _check_time(record.time)
    return record


def _check_shape(record: Record) -> None:
    required, allowed = SHAPES.get(record.event, _EVENT_SHAPE)
    present = {name for name in _BODY_MEMBERS if getattr(record, name) not in ("", None, {})}
    if not required <= present <= allowed:
        wrong = ", ".join(sorted((required - present) | (present - allowed)))
        raise ProtocolError(f"not an audit record: {record.event} with wrong members: {wrong}")
    if record.event == "outcome" and record.result not in RESULTS:
        raise ProtocolError("not an audit record: unknown result of an outcome")


def _check_time(time: str) -> None:
    try:
        datetime.fromisoformat(time.removesuffix("Z"))
    except ValueError as problem:
        raise ProtocolError(f"not an audit record: there is no such time: {problem}") from None


def _escape(match: re.Match[str]) -> str:
    """A character as JSON escapes: one \\uXXXX, or two for what lies beyond the basic plane (RFC 8259, section 7)."""
    units = match.group().encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
