"""Audit records: each has one canonical line, whatever the values contain, and the parser accepts no other."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings, strategies as st

from hsmd.errors import ProtocolError
from hsmd.transparency import records
from hsmd.transparency.lines import (
    attempt_stem,
    attempt_tail,
    bounded,
    event_tail,
    outcome_tail,
    record_line,
    refusal_tail,
)
from hsmd.transparency.records import Record, parse_record, to_wire

HOSTILE = [
    "", 'web-1\n{"index":1}', "a\rb", "\x1b[2J\x1b]0;title\x07", "a\u2028b\u2029c", "\u202eevil\u2066", "\x85", "\x00", "\x7f",
    '"},"event":"x"', "\\", "\ud800", "\udfff\ud800", "\U0001f511", "x" * 1_048_576, "\u20ac" * 300, "</script>",
]  # fmt: skip

texts = st.one_of(
    st.sampled_from(HOSTILE), st.text(st.characters(codec=None, exclude_categories=()), max_size=300)
)
digests = st.binary(min_size=32, max_size=32)
indices = st.integers(0, (1 << 53) - 1)
schemes = st.integers(0, 0xFFFF)
names = st.from_regex(r"[a-z][a-z0-9_]{0,31}", fullmatch=True)
fields = st.dictionaries(
    names, texts | st.integers(-(1 << 53) + 1, (1 << 53) - 1), max_size=records.MAX_FIELDS
)
nonempty = texts.filter(bool)

HEAD = (7, "ab" * 32, "2026-11-21T02:03:04.567890Z")


def one_line(tail: str) -> bytes:
    """The line of a tail, which must be printable ASCII of bounded length, and parse and encode to itself."""
    line = record_line(*HEAD, tail)
    assert all(0x20 <= byte <= 0x7E for byte in line)
    assert len(line) <= records.MAX_LINE_BYTES
    assert len(line.decode().splitlines()) == 1
    assert to_wire(parse_record(line)) == line
    return line


@given(texts, texts, texts, digests, nonempty, schemes, digests)
def test_the_fast_encoding_of_attempts_is_canonical(
    client, credential, key_name, key, purpose, scheme, asked
):
    stem = attempt_stem(client, credential, key_name, key, purpose, scheme)
    line = one_line(attempt_tail(stem, asked.hex()))
    expected = Record(
        *HEAD,
        "attempt",
        client=bounded(client),
        credential=bounded(credential),
        key_name=bounded(key_name),
        key=key.hex(),
        purpose=bounded(purpose),
        scheme=f"{scheme:04x}",
        asked=asked.hex(),
    )
    assert line == to_wire(expected)
    assert parse_record(line) == expected


@given(indices, st.sampled_from(sorted(records.RESULTS)), digests | st.none(), texts)
def test_the_fast_encoding_of_outcomes_is_canonical(attempt, result, answer, error):
    digest = answer.hex() if answer else ""
    line = one_line(outcome_tail(attempt, result, digest, error))
    expected = Record(*HEAD, "outcome", attempt=attempt, result=result, answer=digest, error=bounded(error))
    assert line == to_wire(expected)
    assert parse_record(line) == expected


@given(texts, texts, digests, nonempty, schemes, digests, nonempty)
def test_refusal_reads_back(client, credential, key, purpose, scheme, asked, rule):
    line = one_line(refusal_tail(client, credential, key, purpose, scheme, asked.hex(), rule))
    record = parse_record(line)
    assert (record.client, record.credential, record.rule) == (
        bounded(client),
        bounded(credential),
        bounded(rule),
    )


@given(texts, fields)
def test_event_reads_back_and_any_json_reader_sees_the_same(client, values):
    line = one_line(event_tail("key.generate", client, values))
    record = parse_record(line)
    assert record.fields == {
        name: value if type(value) is int else bounded(value) for name, value in values.items()
    }
    assert json.loads(line).get("fields", {}) == record.fields
    assert json.dumps(json.loads(line), separators=(",", ":")).replace("\x7f", "\\u007f").encode() == line


@given(texts)
def test_bounded_text_changes_only_what_does_not_fit(text):
    made = bounded(text)
    assert len(made) <= records.MAX_TEXT_CHARACTERS
    if len(text) <= records.MAX_TEXT_CHARACTERS and text.isascii():
        assert made == text
    assert bounded(made) == made


SAMPLES = [
    record_line(
        *HEAD,
        attempt_stem("web-1", "SHA256:x", "www", b"k" * 32, "tls13-server", 0x0403) + "0" * 64 + '"}',
    ),
    record_line(*HEAD, outcome_tail(5, "performed", "1" * 64)),
    record_line(*HEAD, event_tail("key.generate", "al\u00e9", {"name": "www", "bits": 256})),
]


@settings(max_examples=500)
@given(st.data())
def test_mutated_lines_are_refused_or_canonical(data):
    line = bytearray(data.draw(st.sampled_from(SAMPLES)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(line) - 1))
        cut = data.draw(st.integers(0, 3))
        line[at : at + cut] = data.draw(st.binary(max_size=3))
        if not line:
            break
    check_refused_or_canonical(bytes(line))


@given(st.binary(max_size=300))
@example(b"")
@example(b"null")
@example(b"[]")
@example(b"\xff\xfe")
@example(b'{"index":' + b"9" * 400 + b"}")
@example(b"[" * 60_000)
@example(b'{"fields":{"a":' + b"[" * 60_000)
@example(b'{"unknown":' + b"[" * 60_000)
@example(b'{"fields":' * 6_000)
@example(b" " * 70_000)
def test_arbitrary_bytes_raise_the_declared_error_only(line):
    check_refused_or_canonical(line)


def check_refused_or_canonical(line: bytes) -> None:
    try:
        record = parse_record(line)
    except ProtocolError:
        return
    assert to_wire(record) == line


@pytest.mark.parametrize(
    "line",
    [
        SAMPLES[1].replace(b"{", b"{ ", 1),
        SAMPLES[1].replace(b'"index":7', b'"index":7.0'),
        SAMPLES[1].replace(b'"index":7', b'"index":-0'),
        SAMPLES[1].replace(b'"performed"', b'"perform\\u0065d"'),
        SAMPLES[1].replace(b'"performed"', b'"pretended"'),
        SAMPLES[1].replace(b"1" * 64, b"A" * 64),
        SAMPLES[1].replace(b',"result":"performed"', b""),
        SAMPLES[1].replace(b"}", b',"error":""}'),
        SAMPLES[1].replace(b"}", b',"error":"a","error":"b"}'),
        SAMPLES[1].replace(b"}", b',"client":"web-1"}'),
        SAMPLES[1].replace(b"}", b',"extra":1}'),
        SAMPLES[1].replace(b"02:03:04.567890Z", b"02:03:04Z"),
        SAMPLES[1] + b"\n",
        SAMPLES[2].replace(b"\\u00e9", "\u00e9".encode()),
        SAMPLES[2].replace(b"\\u00e9", b"\\ud800"),
        SAMPLES[2].replace(b'"bits":256,"name":"www"', b'"name":"www","bits":256'),
        SAMPLES[2].replace(b'"event":"key.generate"', b'"event":"attempt"'),
    ],
)
def test_other_spellings_of_a_record_are_refused(line):
    assert line not in SAMPLES
    with pytest.raises(ProtocolError):
        parse_record(line)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("attempt", {}),
        ("outcome", {}),
        ("Bad", {}),
        ("a b", {}),
        ("x", {"Field": 1}),
        ("x", {"n": 1 << 53}),
        ("x", {"n": 1 << 80}),
        ("x", {f"f{number}": 1 for number in range(17)}),
    ],
)
def test_events_that_no_record_can_hold_are_refused(name, values):
    with pytest.raises(ProtocolError):
        event_tail(name, "", values)
