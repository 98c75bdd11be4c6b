"""Control messages: refusals name the invalid member, and results of later releases can be read."""

import json
from datetime import datetime

import msgspec
import pytest

from hsmd.errors import BadRequest, ProtocolError
from hsmd.protocol import messages
from hsmd.protocol.messages import REQUESTS, KeyGenerate, KeyShow, Request


def test_every_request_has_a_unique_tag_and_a_result_type() -> None:
    tags = [request.__struct_config__.tag for request in REQUESTS]
    assert len(set(tags)) == len(tags)
    for request in REQUESTS:
        assert issubclass(request.Result, msgspec.Struct)
        assert request.__doc__


def test_every_request_of_the_module_can_be_decoded() -> None:
    defined = {
        value for value in vars(messages).values()
        if isinstance(value, type) and issubclass(value, Request) and value is not Request
    }  # fmt: skip
    assert defined == set(REQUESTS)


def test_a_request_survives_the_wire() -> None:
    request = KeyGenerate(name="www", key_type="p-256", purposes=["tls-server"])
    document = messages.encode_request(request)
    assert json.loads(document) == {
        "op": "key.generate", "name": "www", "key_type": "p-256", "purposes": ["tls-server"],
    }  # fmt: skip
    assert messages.decode_request(document) == request


@pytest.mark.parametrize(
    ("document", "described"),
    [
        (b'{"op":"key.show"}', "name"),
        (b'{"op":"key.show","name":7}', r"\$\.name"),
        (b'{"op":"key.show","name":"a","nmae":"b"}', "nmae"),
        (b'{"op":"key.shwo","name":"a"}', "key.shwo"),
        (b'{"name":"a"}', "op"),
        (b'{"op":"key.list","limit":0}', r"\$\.limit"),
        (b'{"op":"key.list","limit":501}', r"\$\.limit"),
        (b'{"op":"audit.read","first":1e999}', r"\$\.first"),
        (b'{"op":"cert.self-signed","key":"a","dns_names":[],"days":0}', r"\$\.days"),
        (b'{"op":"client.trust-ca","public_key":"x","clients":["ok","not ok"]}', r"\$\.clients\[1\]"),
        (b"[]", "object"),
        (b"", "not one complete JSON object"),
        (b'{"op":"whoami"', "not one complete JSON object"),
        (b'{"op":"whoami"}{', "not one complete JSON object"),
        (b'{"op":"key.show","name":"a"} x', "trailing"),
        (b'{"op":"key.show","name":"\xff"}', "not UTF-8"),
        (b'{"op":"\xff"}', "not UTF-8"),
        (b'{"op":"key.csr","name":"a","dns_names":' + b"[" * 60_000, r"\$\.dns_names"),
    ],
)
def test_a_refusal_names_the_invalid_member(document: bytes, described: str) -> None:
    with pytest.raises(BadRequest, match=described) as caught:
        messages.decode_request(document)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("name", ["a", "0", "www.example.com", "A-b_c.d", "x" * 64])
def test_valid_names_are_accepted(name: str) -> None:
    document = json.dumps({"op": "key.show", "name": name}).encode()
    assert messages.decode_request(document) == KeyShow(name=name)


@pytest.mark.parametrize(
    "name", ["", ".a", "-a", "_a", "a b", "a\n", "a/b", "ä", "a\u0000", "x" * 65, "а", "../a", "a;b", "a'b"]
)
def test_names_that_would_need_quoting_are_refused(name: str) -> None:
    with pytest.raises(BadRequest, match=r"\$\.name"):
        messages.decode_request(json.dumps({"op": "key.show", "name": name}).encode())


def test_a_result_with_unknown_members_is_read() -> None:
    document = b'{"client":"web1","role":"front-end","credential":"","daemon":"d","later":[1,2]}'
    assert messages.decode_result(document, messages.Identity).client == "web1"


@pytest.mark.parametrize(
    "document", [b"{}", b"[]", b"", b'{"client":1}', b'{"client":"\xff"}', b"[" * 600_000]
)
def test_a_result_of_another_type_is_refused(document: bytes) -> None:
    with pytest.raises(ProtocolError, match="control result"):
        messages.decode_result(document, messages.Identity)


def test_bytes_are_encoded_as_base64() -> None:
    info = messages.KeyInfo(
        "a", "p-256", "00", b"\x00\xff", [], "t", datetime.fromisoformat("2026-01-02T03:04:05+00:00")
    )
    document = json.loads(messages.encode_result(info))
    assert document["public_key"] == "AP8="
    assert document["created_at"] == "2026-01-02T03:04:05Z"
