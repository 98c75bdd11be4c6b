"""Canonical JSON: one form for each value, the form of RFC 8785, and every other form refused."""

from __future__ import annotations

import pytest
import rfc8785
from hypothesis import given, strategies as st

from hsmd.envelopes import canonical_json
from hsmd.errors import EnvelopeInvalid

LIMIT = 2**53 - 1
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.booleans() | st.integers(-LIMIT, LIMIT) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def depth(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (isinstance(value, dict | list)) + max(map(depth, inner), default=0)


@given(VALUES.filter(lambda value: depth(value) <= canonical_json.MAX_DEPTH))
def test_the_form_is_that_of_rfc_8785_and_is_read_back(value: object) -> None:
    encoded = canonical_json.encode(value)
    assert encoded == rfc8785.dumps(value)
    assert canonical_json.decode(encoded) == value


def test_members_are_sorted_by_utf_16_code_units() -> None:
    """The order of RFC 8785, section 3.2.3, in which an emoji stands before U+FB33."""
    names = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\x80", "\xf6"]
    encoded = canonical_json.encode(dict.fromkeys(names, 1))
    assert list(canonical_json.decode(encoded)) == [
        "\r",
        "1",
        "\x80",
        "\xf6",
        "\u20ac",
        "\U0001f600",
        "\ufb33",
    ]


@pytest.mark.parametrize(
    "other",
    [
        b'{"a":1,"a":1}', b'{"b":1,"a":2}', b'{"a": 1}', b' {"a":1}', b'{"a":1}\n', b'{"\\u0061":1}', b'"\\/"',
        b'"\\u000A"', b'"\\u001F"', b"-0", b"1.0", b"1e2", b"1E400", b"0.5", b"01", b"+1", b"NaN", b"Infinity", b"null", b"[null]",
        b'{"a":null}', b"9007199254740992", b"-9007199254740992", b"1" * 5000, b"", b"{", b'{"a":1}{}', b"\xef\xbb\xbf1",
        b'"\xff"', b'"\xed\xa0\x80"', b'"\\ud800"', b'"\x01"', b"'a'", b"tru", b"[1,]", b"[" * 9 + b"]" * 9, b"[" * 100_000,
        b'"\\u00e4"', '{"\xe4":1}'.encode("latin-1"), '{"a":1}'.encode("utf-16"),
    ],
)  # fmt: skip
def test_every_other_form_is_refused(other: bytes) -> None:
    with pytest.raises(EnvelopeInvalid, match="canonical JSON"):
        canonical_json.decode(other)


@pytest.mark.parametrize(
    "value",
    [None, 1.0, 2**53, -(2**53), b"a", {1: 2}, {"a": {"b": None}}, {"a": object()}, {"a": {1, 2}}, "\ud800", {"\udfff": 1}],
)  # fmt: skip
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(EnvelopeInvalid, match="canonical JSON"):
        canonical_json.encode(value)


def test_nesting_is_bounded_at_both_ends() -> None:
    value: object = 1
    for _ in range(canonical_json.MAX_DEPTH):
        value = [value]
    assert canonical_json.decode(canonical_json.encode(value)) == value
    with pytest.raises(EnvelopeInvalid, match="deeper"):
        canonical_json.encode([value])
    circle: list[object] = []
    circle.append(circle)
    with pytest.raises(EnvelopeInvalid, match="deeper"):
        canonical_json.encode(circle)
