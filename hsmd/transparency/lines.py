"""What the writer of a log needs: lines of records, built quickly, and the hash chain that they continue.

A line is `head` (index, previous, time: known only when it is written) and `tail` (the rest). Tails are made when
something happens; the tail of an attempt up to its `asked` depends only on the grant, so the caller caches it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import NamedTuple

from hsmd.errors import ProtocolError
from hsmd.transparency.records import MAX_TEXT_CHARACTERS, SHAPES, Record, parse_record, to_wire

NO_HEAD = "0" * 64
"""`previous` of the first record, and the head of an empty log."""

_NO_DIGEST = "0" * 64
_PLACEHOLDER = {"index": 0, "previous": "", "time": ""}
_PLACEHOLDER_LENGTH = len('{"index":0,"previous":"","time":""')
_SURROGATES = re.compile("[\ud800-\udfff]")


# --- values ---


def bounded(text: str) -> str:
    """`text` as a record holds it: lone surrogates become U+FFFD, and text longer than the limit is cut."""
    if len(text) > MAX_TEXT_CHARACTERS:
        text = text[: MAX_TEXT_CHARACTERS - 1] + "\u2026"
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def format_time(moment: datetime) -> str:
    """An aware time as records write it: UTC, microseconds, `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


# --- tails ---


def tail(event: str, **members: object) -> str:
    """The line of a record from `event` on, for `record_line`. Texts must be `bounded`."""
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
    if name in SHAPES:
        raise ProtocolError(f"{name} is not the name of an event")
    texts = {key: value if type(value) is int else bounded(str(value)) for key, value in fields.items()}
    try:
        made = tail(name, client=bounded(client), fields=texts)
    except OverflowError:
        raise ProtocolError(f"a number of the event {name} is too large; give it as text") from None
    parse_tail(made)
    return made


def record_line(index: int, previous: str, time: str, tail: str) -> bytes:
    """The line of a record, without line feed, from its changing head and its tail."""
    return f'{{"index":{index},"previous":"{previous}","time":"{time}"{tail}'.encode()


def parse_tail(tail: str) -> Record:
    """The record of a tail, with placeholders for the head. Raises ProtocolError as `parse_record`."""
    return parse_record(record_line(0, _NO_DIGEST, "2000-01-01T00:00:00.000000Z", tail))


# --- the chain ---


class Head(NamedTuple):
    """The end of a log: the number of its records and the leaf hash (hex) of the last one."""

    size: int = 0
    head: str = NO_HEAD


START = Head()
"""The head of an empty log."""


def leaf_hash(line: bytes) -> bytes:
    """SHA-256(0x00 || line), 32 bytes; `line` without its line feed (RFC 9162, section 2.1.1)."""
    return sha256(b"\0" + line).digest()


def extend(start: Head, time: str, tails: Sequence[str]) -> tuple[bytes, Head]:
    """The lines, each with its line feed, that continue a chain with records written at `time`; and the head after them.

    It runs for every key operation, so `record_line` and `leaf_hash` are inlined.
    """
    size, head = start
    lines = []
    for tail in tails:
        line = f'{{"index":{size},"previous":"{head}","time":"{time}"{tail}'.encode()
        head = sha256(b"\0" + line).hexdigest()
        size += 1
        lines.append(line)
    lines.append(b"")
    return b"\n".join(lines), Head(size, head)
