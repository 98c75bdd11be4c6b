"""Headers: what they say, their one form, their bounds, and hostile ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hsmd.envelopes import canonical_json
from hsmd.envelopes.envelope import MAX_ENVELOPE_BYTES, Envelope
from hsmd.envelopes.header import MAX_HEADER_BYTES, Header, Kind, Suite
from hsmd.errors import EnvelopeInvalid, ErrorCode

HEADER = Header(Suite.HPKE_P256, Kind.PRIVATE_KEY, bytes(range(32)), bytes(range(32, 64)), {"record": 7, "owner": "anna"})  # fmt: skip
ENCODED = (
    b'{"about":{"owner":"anna","record":7},"format":"hsmd-envelope/1","kind":"private-key",'
    b'"recipient":"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",'
    b'"spki":"202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f",'
    b'"suite":"hpke-p256-sha256-aes256gcm"}'
)


def members(**changes: Any) -> bytes:
    """The header with other members; a value of None leaves the member out."""
    value = canonical_json.decode(ENCODED)
    assert isinstance(value, dict)
    return canonical_json.encode({name: each for name, each in (value | changes).items() if each is not None})


def test_a_header_has_the_documented_form() -> None:
    assert HEADER.encode() == ENCODED
    assert Header.decode(ENCODED) == HEADER


def test_a_symmetric_key_has_no_digest() -> None:
    """A digest of it would let anyone test guesses."""
    secret = replace(HEADER, kind=Kind.SECRET_KEY, spki=b"")
    assert b"spki" not in secret.encode()
    assert Header.decode(secret.encode()) == secret


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "hsmd-envelope/2"}, "format"),
        ({"format": None}, "format"),
        ({"suite": "rsa-oaep-md5-aes256-kwp"}, "suite"),
        ({"suite": 1}, "suite"),
        ({"kind": "certificate"}, "kind"),
        ({"kind": None}, "kind"),
        ({"kind": "secret-key"}, "members"),
        ({"spki": None}, "members"),
        ({"more": 1}, "members"),
        ({"recipient": "AB" * 32}, "recipient"),
        ({"recipient": "ab" * 31}, "recipient"),
        ({"recipient": "ab" * 32 + "\n"}, "recipient"),
        ({"spki": 7}, "spki"),
        ({"about": []}, "about"),
        ({"about": {"Owner": 1}}, "about"),
        ({"about": {"": 1}}, "about"),
        ({"about": {"a\n": 1}}, "about"),
        ({"about": {f"m{number}": 1 for number in range(33)}}, "about"),
    ],
)
def test_a_header_with_other_members_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(EnvelopeInvalid, match=words) as caught:
        Header.decode(members(**changes))
    assert caught.value.code == ErrorCode.BAD_REQUEST


@pytest.mark.parametrize("other", [b"1", b"[]", b'"a"', b"{}", b"null", ENCODED + b" ", ENCODED[:-1]])
def test_what_is_no_header_is_refused(other: bytes) -> None:
    with pytest.raises(EnvelopeInvalid):
        Header.decode(other)


def test_the_length_of_a_header_is_bounded() -> None:
    room = MAX_HEADER_BYTES - len(replace(HEADER, about={"note": ""}).encode())
    longest = replace(HEADER, about={"note": "a" * room})
    assert Header.decode(longest.encode()) == longest
    with pytest.raises(EnvelopeInvalid, match="longer"):
        replace(HEADER, about={"note": "a" * (room + 1)}).encode()
    with pytest.raises(EnvelopeInvalid, match="longer"):
        Header.decode(longest.encode() + b" ")


def test_an_envelope_has_the_documented_layout() -> None:
    envelope = Envelope(HEADER, b"body")
    assert envelope.encode() == len(ENCODED).to_bytes(2, "big") + ENCODED + b"body"
    assert Envelope.decode(envelope.encode()) == envelope


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"\0\0", b"\0\0body", b"\xff\xff" + ENCODED, Envelope(HEADER, b"").encode(), b"\x10\x01" + b"a" * 5000],
)  # fmt: skip
def test_what_is_no_envelope_is_refused(data: bytes) -> None:
    with pytest.raises(EnvelopeInvalid):
        Envelope.decode(data)


def test_the_length_of_an_envelope_is_bounded() -> None:
    room = MAX_ENVELOPE_BYTES - len(Envelope(HEADER, b"").encode())
    longest = Envelope(HEADER, bytes(room)).encode()
    assert Envelope.decode(longest).encode() == longest
    with pytest.raises(EnvelopeInvalid):
        Envelope.decode(longest + b"\0")
    with pytest.raises(EnvelopeInvalid, match="at most"):
        Envelope(HEADER, bytes(room + 1)).encode()


def test_the_body_is_not_in_the_representation() -> None:
    assert "body" not in repr(Envelope(HEADER, b"the body"))
