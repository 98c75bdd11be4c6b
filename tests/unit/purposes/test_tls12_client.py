"""Transcripts of a TLS 1.2 client: required, optional and refused messages, on an edited real transcript."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from hsmd.algorithms import KeyType
from hsmd.errors import PurposeMismatch
from hsmd.purposes import Purpose, PurposeCheck
from hsmd.purposes.tls12_client import MAX_AUTHORITIES, MAX_CERTIFICATES, MAX_EXTENSIONS, MAX_SCHEMES

VALID = json.loads((Path(__file__).resolve().parents[2] / "vectors" / "purposes" / "valid.json").read_text())
CHECK = PurposeCheck(KeyType.P256, base64.b64decode(VALID["keys"]["p-256"]))
PARTS = (
    "hello",
    "server_hello",
    "server_certificate",
    "exchange",
    "request",
    "done",
    "certificate",
    "key_exchange",
)
HELLO_HEAD = b"\3\3" + b"r" * 32 + b"\0"


def real_messages() -> dict[str, bytes]:
    """The messages of a transcript with ServerKeyExchange, by name."""
    for record in VALID["records"]:
        if (record["key"], record["purpose"]) == ("p-256", "tls12-client"):
            data, found = base64.b64decode(record["data"]), []
            while data:
                size = 4 + int.from_bytes(data[1:4])
                found.append(data[:size])
                data = data[size:]
            return dict(zip(PARTS, found, strict=True))
    raise AssertionError("valid.json holds no such transcript")


def message(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + len(body).to_bytes(3) + body


def check(**changed: bytes) -> None:
    """Check the real transcript with some messages changed."""
    CHECK.check(Purpose.TLS12_CLIENT, 0x0403, b"".join((real_messages() | changed).values()))


def certificates(*entries: bytes) -> bytes:
    listed = b"".join(len(entry).to_bytes(3) + entry for entry in entries)
    return message(11, len(listed).to_bytes(3) + listed)


def test_the_real_transcript_passes():
    check()


def test_optional_messages_may_be_present_or_absent():
    real = real_messages()
    check(exchange=b"")
    check(server_certificate=real["server_certificate"] + message(22, b"\1\0\0\3abc"))
    for body in (b"", b"\1\0\0\0", b"\1\0\0\3ab", b"\1\0\0\3abcd"):
        with pytest.raises(PurposeMismatch):
            check(server_certificate=real["server_certificate"] + message(22, body))


def test_a_key_exchange_may_be_diffie_hellman_over_a_field_or_rsa():
    check(exchange=message(12, b"\0\1p\0\1g\0\1y" + b"\4\1\0\1s"), key_exchange=message(16, b"\0\3key"))


def test_a_missing_byte_is_found_although_a_length_fits_by_chance():
    """Without its last length byte ClientKeyExchange begins with 0x41, the length of a P-256 point, and ends in time."""
    point = real_messages()["key_exchange"][4:]
    assert point[0] == len(point) - 1
    with pytest.raises(PurposeMismatch):
        check(key_exchange=b"\x10\0\0" + point)


def test_hellos_need_no_extensions():
    check(hello=message(1, HELLO_HEAD + b"\0\2\xc0\x2b" + b"\1\0"))
    check(hello=message(1, HELLO_HEAD + b"\0\2\xc0\x2b" + b"\1\0" + b"\0\0"))
    check(server_hello=message(2, HELLO_HEAD + b"\xc0\x2b\0"))


def test_a_session_id_has_at_most_32_bytes():
    for size in (1, 32):
        check(hello=message(1, HELLO_HEAD[:-1] + bytes([size]) + bytes(size) + b"\0\2\xc0\x2b\1\0"))
    with pytest.raises(PurposeMismatch, match="33 bytes"):
        check(hello=message(1, HELLO_HEAD[:-1] + bytes([33]) + bytes(33) + b"\0\2\xc0\x2b\1\0"))


def test_a_chain_may_follow_the_clients_certificate_but_not_precede_it():
    own, other = real_messages()["certificate"][10:], b"\x30\x03\x02\x01\x00"
    check(certificate=certificates(own, other))
    check(server_certificate=certificates(other, own))
    with pytest.raises(PurposeMismatch, match=r"ends early|tag"):
        check(certificate=certificates(other, own))


def test_the_certificate_of_the_server_does_not_count_as_the_clients():
    """Both ends of the recording send the same certificate, so the key that is checked is another one."""
    key = next(name for name in VALID["keys"] if name != "p-256")
    spki = base64.b64decode(VALID["keys"][key])
    with pytest.raises(PurposeMismatch, match="not of this key"):
        PurposeCheck(KeyType.P256, spki).check(
            Purpose.TLS12_CLIENT, 0x0403, b"".join(real_messages().values())
        )


@pytest.mark.parametrize(
    ("part", "body", "reason"),
    [
        ("hello", b"\3\2" + HELLO_HEAD[2:] + b"\0\2\xc0\x2b\1\0", "not of TLS 1.2"),
        ("hello", HELLO_HEAD + b"\0\0\1\0", "vector of 0 bytes"),
        ("hello", HELLO_HEAD + b"\0\3\xc0\x2b\0\1\0", "vector of 3 bytes"),
        ("hello", HELLO_HEAD + b"\0\2\xc0\x2b\0", "vector of 0 bytes"),
        ("hello", HELLO_HEAD + b"\0\2\xc0\x2b\1\0\0\0\0", "none may follow"),
        ("hello", HELLO_HEAD + b"\0\2\xc0\x2b\1\0\0\5\0\1\0\2a", "ends early"),
        ("server_hello", b"\3\4" + HELLO_HEAD[2:] + b"\xc0\x2b\0", "not of TLS 1.2"),
        ("server_hello", HELLO_HEAD + b"\xc0\x2b\0" + b"\0\6\0\x2b\0\2\3\4", "another TLS version"),
        ("server_certificate", b"\0\0\0", "vector of 0 bytes"),
        ("server_certificate", b"\0\0\4\0\0\2a", "ends early"),
        ("server_certificate", b"\0\0\4\0\0\1a\0", "none may follow"),
        ("certificate", b"\0\0\0", "vector of 0 bytes"),
        ("certificate", b"\0\0\3\0\0\0", "vector of 0 bytes"),
        ("request", b"\0\0\2\4\3\0\0", "vector of 0 bytes"),
        ("request", b"\1\x40\0\0\0\0", "vector of 0 bytes"),
        ("request", b"\1\x40\0\3\4\3\4\0\0", "vector of 3 bytes"),
        ("request", b"\1\x40\0\2\4\3\0\2\0\0", "vector of 0 bytes"),
        ("request", b"\1\x40\0\2\4\3\0\0\0", "none may follow"),
        ("request", b"\1\x40\0\4\5\3\3\4\0\0", "did not offer"),
        ("done", b"\0", "none may follow"),
        ("exchange", b"\3\0\x17\1\4\4\3\0\0", "vector of 0 bytes"),
        ("exchange", b"\3\0\x17\1\4\4\3\0\1s\0", "none may follow"),
        ("exchange", b"\0\1p\0\1g\0\0\4\1\0\1s", "vector of 0 bytes"),
        ("key_exchange", b"", "ends early"),
        ("key_exchange", b"\0", "ends early"),
        ("key_exchange", b"\0\0", "vector of 0 bytes"),
        ("key_exchange", b"\0\2a", "ends early"),
        ("key_exchange", b"\2a", "ends early"),
    ],
)
def test_a_message_that_is_not_well_formed_is_refused(part, body, reason):
    kind = real_messages()[part][0]
    with pytest.raises(PurposeMismatch, match=f"not a TLS 1.2 client transcript: .*{reason}"):
        check(**{part: message(kind, body)})


@pytest.mark.parametrize("part", [part for part in PARTS if part != "exchange"])
def test_no_other_message_may_be_missing(part):
    with pytest.raises(PurposeMismatch, match="where one must be"):
        check(**{part: b""})


def test_a_further_element_in_the_clients_certificate_is_refused():
    own = real_messages()["certificate"][10:]
    size = int.from_bytes(own[2:4])
    assert own[:2] == b"\x30\x82"
    with pytest.raises(PurposeMismatch, match="none may follow"):
        check(certificate=certificates(b"\x30\x82" + (size + 2).to_bytes(2) + own[4:] + b"\5\0"))


@pytest.mark.parametrize("size", [100, 124, 133, 165, 201])
def test_no_bytes_as_long_as_a_server_key_exchange_are_a_transcript(size):
    """Both formats begin with arbitrary bytes; their lengths distinguish them."""
    with pytest.raises(PurposeMismatch, match="too short"):
        CHECK.check(Purpose.TLS12_CLIENT, 0x0403, b"".join(real_messages().values())[:size])


# --- what a check costs ---

OWN = real_messages()["certificate"][10:]


def client_hello(extensions: int) -> bytes:
    block = bytes(4 * extensions)
    return message(1, HELLO_HEAD + b"\0\2\xc0\x2b" + b"\1\0" + len(block).to_bytes(2) + block)


def server_hello(extensions: int) -> bytes:
    block = bytes(4 * extensions)
    return message(2, HELLO_HEAD + b"\xc0\x2b\0" + len(block).to_bytes(2) + block)


def request(schemes: int, authorities: int) -> bytes:
    offered, named = b"\4\3" * schemes, b"\0\1n" * authorities
    return message(13, b"\1\x40" + len(offered).to_bytes(2) + offered + len(named).to_bytes(2) + named)


LISTS = {
    "server certificates": (MAX_CERTIFICATES, lambda n: {"server_certificate": certificates(*[b"x"] * n)}),
    "client certificates": (
        MAX_CERTIFICATES,
        lambda n: {"certificate": certificates(OWN, *[b"x"] * (n - 1))},
    ),
    "client extensions": (MAX_EXTENSIONS, lambda n: {"hello": client_hello(n)}),
    "server extensions": (MAX_EXTENSIONS, lambda n: {"server_hello": server_hello(n)}),
    "schemes": (MAX_SCHEMES, lambda n: {"request": request(n, 0)}),
    "authorities": (MAX_AUTHORITIES, lambda n: {"request": request(1, n)}),
}
"""The longest list of each kind, and a list of any length of its shortest elements."""


def steps_of(changed: dict[str, bytes]) -> int:
    """Lines of Python that one check executes, whatever its result."""
    data = b"".join((real_messages() | changed).values())
    steps = 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal steps
        steps += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        CHECK.check(Purpose.TLS12_CLIENT, 0x0403, data)
    except PurposeMismatch:
        pass
    finally:
        sys.settrace(before)
    return steps


@pytest.mark.parametrize("kind", LISTS)
def test_lists_are_bounded_far_beyond_honest_ones(kind):
    most, changed = LISTS[kind]
    check(**changed(most))
    with pytest.raises(PurposeMismatch, match=r"more than|that cannot be"):
        check(**changed(most + 1))


@pytest.mark.parametrize("kind", LISTS)
def test_no_transcript_of_64_kilobytes_costs_more_than_the_longest_honest_lists(kind):
    """The worker checks it beside the key, and other clients wait meanwhile."""
    honest, flood = steps_of({}), steps_of(LISTS[kind][1](15_000))
    assert honest < 2_000
    assert flood < honest + 8 * MAX_AUTHORITIES


def test_the_certification_authorities_of_a_whole_distribution_pass():
    """As many names, and as long, as the root certificates of Debian have."""
    names = b"".join((100).to_bytes(2) + b"\x30\x62" + bytes(98) for _ in range(150))
    check(request=message(13, b"\1\x40\0\2\4\3" + len(names).to_bytes(2) + names))
